"""From documents to the splits of a text data module: fit, tokenise, cache, describe. Where documents come from is the
business of `data/text/text_corpus.py` and `data/text/python_docs.py`, which share all of this; which split they belong
to, `data/text/division.py`'s.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bigtrain.config.kinds import Audit
from bigtrain.data.base import DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.originals import Originals, ReadOnce
from bigtrain.data.text.config import TextConfig
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.text.division import Divided
from bigtrain.data.text.paragraphs import paragraphs
from bigtrain.data.text.shards import ShardsGone, needs_keeping, shards_of, tokenise
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.text.tokenizing import (
    find_or_prepare,
    fit_to_texts,
    fitted_to,
    given_tokenizer,
    warn_of_small_vocabulary,
    warn_of_unknown,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer, characters_of
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

SAMPLE_CHARACTERS = 64 << 20  # of the training split, for a vocabulary of pieces of words
_VERSION = 5  # of what this file and the readers make of a source; part of every cache key


class TextSplits:
    """The token windows of each split, their DataSpec and tokenizer.

    `source` names everything that `read` depends on (it is hashed into the cache key, and never leaves the
    machine); `read` gives the corpus and its division into train, val and, where there is one, test, and is called
    only if they are not in the cache. A given `tokenizer`, or the one that the settings name a file of, is used as it
    is.
    """

    def __init__(
        self,
        config: TextConfig,
        source: Any,
        read: Callable[[], Divided],
        tokenizer: Tokenizer | None,
    ):
        fits = tokenizer is None
        tokenizer = given_tokenizer(config, tokenizer)
        texts = ReadOnce(read, keep=config.audit is not Audit.off)
        prepared = _find_or_prepare(config, source, texts, tokenizer)
        self.tokenizer: Tokenizer = tokenizer or tokenizer_from_json(prepared.meta["tokenizer"])
        streams = prepared.arrays
        self._windows = {
            split: TokenWindows(stream, config.sequence_length, split) for split, stream in streams.items()
        }
        self.spec = DataSpec(
            kind="text",
            fingerprint=fingerprint_of(prepared.meta["fingerprint"], config.sequence_length),
            sizes={split: len(windows) for split, windows in self._windows.items()},
            vocab_size=self.tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            special_tokens=self.tokenizer.special_ids,
            # Of a tokenizer that drops capitals or line ends, bits per byte would be lower than others'.
            bytes_per_token={
                split: prepared.meta["scored_bytes"][split] / windows.num_targets
                for split, windows in self._windows.items()
                if prepared.meta["exact"]
            },
        )
        self.originals = Originals(
            key=fingerprint_of(_VERSION, source),
            unit="paragraphs",
            open=lambda: paragraphs(texts.again()),
            tokenizer=fitted_to(config, fits),
        )
        if fits:
            warn_of_small_vocabulary(config, self.tokenizer)
        warn_of_unknown(prepared.meta["unknown"], self.tokenizer)

    def dataset(self, split: str) -> TokenWindows:
        """See `data/base.py`."""
        if split not in self._windows:
            raise DataError.of(
                "DATA-SPLIT",
                f"there is no {split} split",
                cause=f"the splits are: {', '.join(self._windows)}",
                fix=f"give {split} a part in data.split, or its own files (data.{split}_path)",
            )
        return self._windows[split]


def _find_or_prepare(
    config: TextConfig, source: Any, read: Callable[[], Divided], tokenizer: Tokenizer | None
) -> Prepared:
    """What is unfinished is kept in a folder of its own until all is done."""
    root, source = cache_root(config.cache_dir), [_VERSION, source]
    named = config.vocab_size if tokenizer is None else tokenizer.to_json()
    folder = root and root / "unfinished" / fingerprint_of(source, config.tokenizer.value, named)
    find = partial(
        find_or_prepare, "text", config, source, lambda fitted: _prepare(config, read(), fitted, folder), tokenizer
    )
    try:
        prepared = find()
    except ShardsGone:  # because the whole is there
        prepared = find()
    if folder and prepared.is_kept:
        shutil.rmtree(folder, ignore_errors=True)
    return prepared


def _prepare(config: TextConfig, divided: Divided, tokenizer: Tokenizer | None, folder: Path | None) -> Prepared:
    if tokenizer is None:
        tokenizer = _fit_once(config, divided, folder)
    found = tokenise(divided, tokenizer, folder)
    meta = {
        "tokenizer": tokenizer.to_json(),
        "fingerprint": fingerprint_of(tokenizer.to_json(), list(found.streams), *found.streams.values()),
        **found.meta,
    }
    return Prepared(meta, {}, found.streams)


def _fit_once(config: TextConfig, divided: Divided, folder: Path | None) -> Tokenizer:
    """Kept beside the shards, where there are several: what was interrupted goes on with the same one."""
    if folder is None or not needs_keeping(divided):
        return _fit(config, divided)
    fit = lambda: Prepared(_fit(config, divided).to_json(), {})  # noqa: E731
    return tokenizer_from_json(load_or_build(folder.parent, folder.name, "tokenizer", fit).meta)


def _fit(config: TextConfig, divided: Divided) -> Tokenizer:
    """To the training split: to all of its characters, or, for pieces of words, to a sample of it.

    end_of_text only where something has to be kept apart; `unknown` only where val or test need it.
    """
    several = any(divided.documents(split) > 1 for split in divided.splits)
    if config.tokenizer is TokenizerKind.byte:
        return fit_to_texts(config, [], end_of_text=several, unknown=False)
    if config.tokenizer is not TokenizerKind.char:
        return fit_to_texts(config, _sample(divided), end_of_text=several, unknown=False)
    seen: dict[str, set[str]] = {split: set() for split in divided.splits}
    for shard in shards_of(divided):
        for split in seen:
            seen[split].update(characters_of(text for of_split, text, _ in shard if of_split == split))
    unknown = not set().union(*seen.values()) <= seen["train"]
    return fit_to_texts(config, ["".join(sorted(seen["train"]))], end_of_text=several, unknown=unknown)


def _sample(divided: Divided) -> list[str]:
    """Of the training split, all, or pieces that add up to about SAMPLE_CHARACTERS: those with the lowest hashes."""
    pieces = (stretch.text for stretch in divided if stretch.split == "train")
    share = SAMPLE_CHARACTERS / divided.characters("train")
    return [piece for piece in pieces if share >= 1 or _position_of(piece) < share]


def _position_of(text: str) -> float:
    """A hash in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56
