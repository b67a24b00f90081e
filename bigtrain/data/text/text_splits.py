"""From documents to the splits of a text data module: divide, tokenise, cache, describe. Where documents come
from is the business of `data/text/text_corpus.py` and `data/text/python_docs.py`, which share all of this.
"""

from __future__ import annotations

import hashlib
import warnings
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from bigtrain.data.base import DataSpec
from bigtrain.data.cache import Prepared, cache_root, find, fingerprint_of, load_or_build
from bigtrain.data.text.config import BPE_VOCAB_SIZE, TextConfig
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.text.token_stream import TokenWindows, join_documents, scored_text_bytes
from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, characters_of
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer, tokenizer_from_json
from bigtrain.errors import DataError

Documents = list[str]
NANOGPT_FRACTION = 0.9
_SAMPLE_CHARACTERS = 10_000  # of each split, to see whether the tokenizer keeps all of a text
_VERSION = 4  # of what this file and the readers make of a source; part of every cache key


class TextSplits:
    """The token windows of each split, their DataSpec and tokenizer.

    `source` names everything that `read` depends on (it is hashed into the cache key, and never leaves the
    machine); `read` gives the documents of train, val and, where there is one, test, and is called only if
    they are not in the cache. A given `tokenizer`, or the one that the settings name a file of, is used as it is.
    """

    def __init__(
        self,
        config: TextConfig,
        source: Any,
        read: Callable[[], dict[str, Documents]],
        tokenizer: Tokenizer | None,
    ):
        fits = tokenizer is None
        if tokenizer is None and config.tokenizer is TokenizerKind.file:
            assert config.tokenizer_path is not None  # TextConfig.problems
            tokenizer = read_tokenizer(config.tokenizer_path)
        prepared = _find_or_prepare(config, source, read, tokenizer)
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
            bytes_per_token={
                split: prepared.meta["scored_bytes"][split] / windows.num_targets
                for split, windows in self._windows.items()
            },
        )
        if fits:
            _warn_of_small_vocabulary(config, self.tokenizer)
        _warn_of_loss(prepared.meta["unknown"], prepared.meta["exact"], self.tokenizer)

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
    config: TextConfig,
    source: Any,
    read: Callable[[], dict[str, Documents]],
    tokenizer: Tokenizer | None,
) -> Prepared:
    root = cache_root(config.cache_dir)
    key = fingerprint_of(_VERSION, source, config.tokenizer.value, _bpe_size(config))
    if tokenizer is not None:
        # A run that is resumed or evaluated brings the tokenizer that was fitted to this very text.
        fitted = find(root, "text", key)
        if fitted is not None and fitted.meta["tokenizer"] == tokenizer.to_json():
            return fitted
        key = fingerprint_of(_VERSION, source, tokenizer.to_json())
    return load_or_build(root, "text", key, lambda: _prepare(config, read(), tokenizer))


def _prepare(config: TextConfig, splits: dict[str, Documents], tokenizer: Tokenizer | None) -> Prepared:
    if tokenizer is None:
        tokenizer = _fit_tokenizer(config, splits)
    streams = {split: join_documents(documents, tokenizer) for split, documents in splits.items()}
    meta = {
        "tokenizer": tokenizer.to_json(),
        "scored_bytes": {split: scored_text_bytes(documents, tokenizer) for split, documents in splits.items()},
        "unknown": _unknown(splits, streams, tokenizer),
        "exact": all(_comes_back(documents[0][:_SAMPLE_CHARACTERS], tokenizer) for documents in splits.values()),
        "fingerprint": fingerprint_of(tokenizer.to_json(), list(streams), *streams.values()),
    }
    return Prepared(meta, streams)


def _fit_tokenizer(config: TextConfig, splits: dict[str, Documents]) -> Tokenizer:
    """To the training split. end_of_text only where something has to be kept apart; `unknown` only where val or test
    need it.
    """
    several = any(len(documents) > 1 for documents in splits.values())
    if config.tokenizer is TokenizerKind.byte:
        return ByteTokenizer(end_of_text=several)
    if config.tokenizer is TokenizerKind.bpe:
        return train_bpe(splits["train"], _bpe_size(config), end_of_text=several)
    characters = characters_of(splits["train"])
    return CharTokenizer(characters, end_of_text=several, unknown=bool(_other_characters(characters, splits)))


def _bpe_size(config: TextConfig) -> int:
    return config.vocab_size or BPE_VOCAB_SIZE


def _other_characters(known: str, splits: dict[str, Documents]) -> dict[str, str]:
    found = {split: "".join(sorted(set(characters_of(splits[split])) - set(known))) for split in splits}
    return {split: characters for split, characters in found.items() if characters}


def _unknown(
    splits: dict[str, Documents], streams: dict[str, np.ndarray], tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """Of each split that has unknown tokens: their share of its tokens, and, where they are characters, which."""
    if tokenizer.unknown is None:
        return {}
    characters = _other_characters(tokenizer.characters, splits) if isinstance(tokenizer, CharTokenizer) else {}
    shares = {split: float(np.mean(stream == tokenizer.unknown)) for split, stream in streams.items()}
    return {
        split: {"share": share, "characters": characters.get(split, "")} for split, share in shares.items() if share > 0
    }


def _comes_back(text: str, tokenizer: Tokenizer) -> bool:
    return tokenizer.decode(tokenizer.encode(text)) == text


def _warn_of_loss(unknown: dict[str, dict[str, Any]], exact: bool, tokenizer: Tokenizer) -> None:
    """Of what a model with this tokenizer need not predict: its figures look better for it."""
    if not unknown:
        if not exact:
            warnings.warn(
                "the tokenizer does not keep all of the text (capitals or line ends, for instance), so bits per byte "
                "are not comparable with other tokenizers; data.tokenizer=bpe and byte keep all of it.",
                stacklevel=3,
            )
        return
    if isinstance(tokenizer, CharTokenizer):
        shown = " ".join(sorted({character for found in unknown.values() for character in found["characters"]})[:20])
        what = f"characters of {' and '.join(unknown)} never occur in train: {shown}"
    else:
        shares = " and ".join(f"{found['share']:.2%} of the tokens of {split}" for split, found in unknown.items())
        what = f"the tokenizer has no token for part of the text: {shares} are unknown"
    warnings.warn(
        f"{what}. All count as one unknown token, so losses there are not comparable with other tokenizers; "
        "data.tokenizer=byte has no unknown characters.",
        stacklevel=3,
    )


def _warn_of_small_vocabulary(config: TextConfig, tokenizer: Tokenizer) -> None:
    if config.tokenizer is TokenizerKind.bpe and tokenizer.vocab_size < _bpe_size(config):
        warnings.warn(
            f"the training text gives a vocabulary of {tokenizer.vocab_size:,} tokens, not {_bpe_size(config):,}: "
            f"no more pairs of tokens repeat in it. data.vocab_size={tokenizer.vocab_size} says the same.",
            stacklevel=3,
        )


def divide(documents: Documents, split: str) -> dict[str, Documents]:
    """Documents (none of them empty) → those of train, val and, where its part is not 0, test.

    `nanogpt`: all but the last 10 % of the characters, as karpathy/nanoGPT's data/shakespeare_char does; there
    is no test split. Fractions of the characters: a single document is cut between characters; several are never cut.
    Which split a document joins depends on the hash of its text, so splits are representative whatever the
    order of the files, and copies of a document join the same split (but for the one at the border). Raises
    DataError for a split that would be empty.
    """
    total = sum(map(len, documents))
    if split == "nanogpt":
        train, rest = _cut(documents, int(total * NANOGPT_FRACTION))
        parts = {"train": train, "val": rest}
    else:
        train_part, val_part, test_part = (float(part) for part in split.split(","))
        borders = [train_part * total, (train_part + val_part) * total]
        if len(documents) == 1:
            train, rest = _cut(documents, round(borders[0]))
            val, test = _cut(rest, round(borders[1]) - round(borders[0]))
        else:
            train, val, test = _share_out(documents, borders, wanted=[train_part > 0, val_part > 0, test_part > 0])
        parts = {"train": train, "val": val} | ({"test": test} if test_part else {})
    for name, part in parts.items():
        if not part:
            raise DataError.of(
                "DATA-EMPTY-SPLIT",
                f"the {name} split would be empty",
                cause=f"data.split={split} of {len(documents)} document(s), {total} characters",
                fix="give it a larger part, or use data.split=nanogpt, which cuts inside documents, "
                "or give own files (data.train_path, data.val_path)",
            )
    return parts


def _cut(documents: Documents, characters: int) -> tuple[Documents, Documents]:
    """The first `characters` of the documents, and the rest; at most one document is cut in two."""
    ends = list(accumulate(map(len, documents)))
    index = bisect_left(ends, characters)
    if index == len(documents):
        return documents, []
    offset = len(documents[index]) - (ends[index] - characters)
    head, tail = documents[index][:offset], documents[index][offset:]
    return documents[:index] + [head] * bool(head), [tail] * bool(tail) + documents[index + 1 :]


def _share_out(documents: Documents, borders: list[float], wanted: list[bool]) -> list[Documents]:
    """Whole documents to the three splits, cut in hashed order where the characters come nearest to the
    borders.

    However unequal the documents are, each wanted split gets one at least, if there are enough.
    """
    order = hashed_order(documents)
    ends = np.cumsum([0, *(len(documents[index]) for index in order)])
    first, second = np.abs(ends[:, None] - np.array(borders)).argmin(axis=0)
    second = min(max(second, 1 + wanted[1]), len(order) - wanted[2])
    first = min(max(first, 1), second - wanted[1])
    cuts = [0, first, second, len(order)]
    return [[documents[index] for index in sorted(order[a:b])] for a, b in pairwise(cuts)]


def hashed_order(documents: Documents) -> list[int]:
    """Indices of the documents, shuffled by the hash of their texts: the same on every machine."""
    digests = [hashlib.blake2b(document.encode(), digest_size=16, key=b"bigtrain").digest() for document in documents]
    return sorted(range(len(documents)), key=lambda index: (digests[index], index))
