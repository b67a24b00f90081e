"""Data of running text: fit a tokenizer, tokenise in shards, describe.

Where documents come from: `data/text/text_corpus.py` and `data/text/python_docs.py`; which split they belong to:
`data/text/division.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.originals import Original
from bigtrain.data.text.config import TextConfig
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.text.division import Divided
from bigtrain.data.text.paragraphs import paragraphs
from bigtrain.data.text.shards import ShardsGone, needs_keeping, shards_of, tokenise
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.text.tokenized import TokenizedSplits
from bigtrain.data.text.tokenizing import (
    fit_to_texts,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer, characters_of
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json

SAMPLE_CHARACTERS = 64 << 20  # of the training split, for a vocabulary of pieces of words


class TextSplits(TokenizedSplits[Divided, TokenWindows]):
    """Windows of the one token stream of each split. A corpus may be larger than memory: it is tokenised in shards."""

    kind, unit, version = "text", "paragraphs", 5
    split_fix = "give {split} a part in data.split, or its own files (data.{split}_path)"
    config: TextConfig

    def find_or_prepare(self, source: Any, read: Callable[[], Divided], tokenizer: Tokenizer | None) -> Prepared:
        """Shards of a corpus that is not finished are kept in a folder of their own until all is done."""
        root = cache_root(self.config.cache_dir)
        named = self.config.vocab_size if tokenizer is None else tokenizer.to_json()
        self._unfinished = root and root / "unfinished" / fingerprint_of(source, self.config.tokenizer.value, named)
        find = partial(super().find_or_prepare, source, read, tokenizer)
        try:
            prepared = find()
        except ShardsGone:  # another process has finished the whole and removed them
            prepared = find()
        if self._unfinished and prepared.is_kept:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        return prepared

    def prepare(self, texts: Divided, tokenizer: Tokenizer | None) -> Prepared:
        if tokenizer is None:
            tokenizer = _fit_once(self.config, texts, self._unfinished)
        found = tokenise(texts, tokenizer, self._unfinished)
        meta = {
            "tokenizer": tokenizer.to_json(),
            "fingerprint": fingerprint_of(tokenizer.to_json(), list(found.streams), *found.streams.values()),
            **found.meta,
        }
        return Prepared(meta, {}, found.streams)

    def datasets(self, prepared: Prepared) -> dict[str, TokenWindows]:
        streams, length = prepared.arrays.items(), self.config.sequence_length
        separator = None if self.config.attend_across_documents else self.tokenizer.end_of_text
        return {split: TokenWindows(stream, length, split, separator) for split, stream in streams}

    def notes(self, prepared: Prepared) -> Iterable[str]:
        if not self.config.attend_across_documents and self.tokenizer.end_of_text is None:
            what = "each split is one document, or this tokenizer has no token between documents"
            yield f"data.attend_across_documents=false has no effect: {what}"

    def facts(self, prepared: Prepared) -> dict[str, Any]:
        """Bits per byte would come out too low for a tokenizer that drops capitals or line ends: those have none."""
        scored, exact = prepared.meta["scored_bytes"], prepared.meta["exact"]
        windows = self._datasets.items() if exact else ()
        apart = [] if self.config.attend_across_documents else ["documents apart"]
        return {
            "fingerprint": fingerprint_of(prepared.meta["fingerprint"], self.config.sequence_length, *apart),
            "bytes_per_token": {split: scored[split] / of_split.num_targets for split, of_split in windows},
        }

    def passes(self, texts: Divided) -> Callable[[], Iterator[Original]]:
        return paragraphs(texts)


def _fit_once(config: TextConfig, divided: Divided, folder: Path | None) -> Tokenizer:
    """Kept beside the shards, where there are several: what was interrupted goes on with the same one."""
    if folder is None or not needs_keeping(divided):
        return fit_to_corpus(config, divided)
    fit = lambda: Prepared(fit_to_corpus(config, divided).to_json(), {})  # noqa: E731
    return tokenizer_from_json(load_or_build(folder.parent, folder.name, "tokenizer", fit).meta)


def fit_to_corpus(config: TextConfig, divided: Divided) -> Tokenizer:
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
