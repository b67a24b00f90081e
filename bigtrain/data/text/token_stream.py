"""One split's tokens as one long stream, and the windows that are cut from it.

A stream is an array in the smallest unsigned type that holds the vocabulary, in memory or memory-mapped. It is
kept by `data/cache.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError


def token_dtype(vocab_size: int) -> Any:
    """The smallest unsigned type for ids below `vocab_size`."""
    return np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32


def join_documents(
    documents: Sequence[str], tokenizer: Tokenizer, *, opens: bool = True, closes: bool = True
) -> np.ndarray:
    """The stream: end_of_text, document, end_of_text, …, document, end_of_text; so every character is a target.

    With a tokenizer that has no end_of_text, the documents follow each other directly. Of a part of a stream: whether
    the stream `opens` with it, and whether its last document `closes` in it.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    pieces = list(tokenizer.encode_all(documents, dtype))
    if tokenizer.end_of_text is None:
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=dtype)
    stream = np.full(sum(map(len, pieces)) + len(pieces) + 1, tokenizer.end_of_text, dtype=dtype)
    start = 1
    for piece in pieces:
        stream[start : start + len(piece)] = piece
        start += len(piece) + 1
    return stream[not opens : len(stream) - (not closes)]


def scored_text_bytes(documents: Sequence[str], tokenizer: Tokenizer, *, opens: bool = True) -> int:
    """UTF-8 bytes of the text that is scored: all of it, but for a first token that nothing precedes."""
    total = sum(len(document) if document.isascii() else len(document.encode()) for document in documents)
    if tokenizer.end_of_text is not None or not opens or not total:
        return total
    return total - tokenizer.first_token_bytes(next(document for document in documents if document))


class TokenWindows(Dataset):
    """Windows of T+1 tokens at stride T over a stream: every token but the first is a target exactly once.

    `gather` gives `tokens` (B, T+1) int64 and `scored` (B, T) bool. The last window is filled up with id 0,
    and those positions are not scored; so it is in every split, the training split too. With a `separator`, the id
    with which each document begins, also `documents` (B, T) int64: how many of them have begun up to each token. Raises
    DataError for a stream shorter than two tokens; `split` names it.
    """

    contiguous = True

    def __init__(self, stream: np.ndarray, sequence_length: int, split: str, separator: int | None = None):
        if len(stream) < 2:
            raise DataError.of(
                "DATA-SHORT",
                f"the {split} split has {len(stream)} token(s); two is the least that can be learnt from",
                cause="too little text",
                fix=f"give more text, or a larger part of it to {split} (data.split)",
            )
        self.sequence_length = sequence_length
        self._separator = separator
        self.num_targets = len(stream) - 1
        self._full = self.num_targets // sequence_length
        rest = stream[self._full * sequence_length :]
        self._last = np.zeros(sequence_length + 1, dtype=stream.dtype)
        self._last[: len(rest)] = rest
        self._last_scored = torch.arange(sequence_length) < len(rest) - 1
        if self._full:
            # Rows of a strided view are copied whole: no (B, T+1) index is made.
            self._windows = np.lib.stride_tricks.sliding_window_view(stream, sequence_length + 1)[::sequence_length]
        else:
            self._windows = self._last[None]

    def __len__(self) -> int:
        return self._full + (self.num_targets % self.sequence_length > 0)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `data/base.py`. Raises IndexError for an id outside range(len(self))."""
        ids = np.asarray(ids)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"sample ids must be in [0, {len(self)})")
        last = ids >= self._full
        tokens = self._windows[np.where(last, 0, ids)]
        scored = torch.ones(len(ids), self.sequence_length, dtype=torch.bool)
        if last.any():
            tokens[last] = self._last
            scored[torch.from_numpy(last)] = self._last_scored
        samples = {"tokens": torch.from_numpy(tokens.astype(np.int64)), "scored": scored}
        if self._separator is not None:
            samples["documents"] = torch.from_numpy(np.cumsum(tokens[:, :-1] == self._separator, axis=1))
        return samples
