"""Texts of different lengths: their tokens one after the other, and where each text begins. In memory or
memory-mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.text.token_stream import token_dtype
from bigtrain.data.tokenizers.tokenizer import Tokenizer, framing_ids


@dataclass(frozen=True)
class Ragged:
    """Text n is `stream[offsets[n] : offsets[n + 1]]`; `offsets` (N+1,) int64 begin with 0."""

    stream: np.ndarray
    offsets: np.ndarray

    @classmethod
    def framed(cls, texts: Sequence[str], tokenizer: Tokenizer) -> Self:
        """The tokens of each text between what marks its beginning and its end (`framing_ids`)."""
        dtype = token_dtype(tokenizer.vocab_size)
        bare = Ragged.of(list(tokenizer.encode_all(texts, dtype)), dtype)
        offsets = bare.offsets + 2 * np.arange(len(bare) + 1)
        first, last = offsets[:-1], offsets[1:] - 1
        stream, inside = np.empty(offsets[-1], dtype=dtype), np.ones(offsets[-1], dtype=bool)
        stream[first], stream[last] = framing_ids(tokenizer)
        inside[first] = inside[last] = False
        stream[inside] = bare.stream
        return cls(stream, offsets)

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], dtype: np.typing.DTypeLike) -> Self:
        """From the tokens of each text."""
        offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        return cls(np.concatenate(pieces) if pieces else np.empty(0, dtype=dtype), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.stream[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens (N,) int64 of each text."""
        return np.diff(self.offsets)

    def select(self, ids: np.ndarray) -> Ragged:
        """The texts with these ids, in this order."""
        return Ragged.of([self[index] for index in ids.tolist()], self.stream.dtype)

    def truncated(self, longest: int) -> Ragged:
        """Texts over `longest` tokens lose what is over, but for their last token, the mark of the end."""
        kept = (self[index] for index in range(len(self)))
        return Ragged.of([ids if len(ids) <= longest else _cut(ids, longest) for ids in kept], self.stream.dtype)

    def padded(self, ids: np.ndarray | Sequence[int]) -> tuple[Tensor, Tensor]:
        """The texts with these ids: (B, T) int64, padded with 0 on the right to the longest, and their lengths (B,).

        Raises IndexError for an id outside range(len(self)).
        """
        ids = np.asarray(ids)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"sample ids must be in [0, {len(self)})")
        starts = self.offsets[ids]
        lengths = self.offsets[ids + 1] - starts
        places = np.arange(lengths.max(initial=0))
        inside = places < lengths[:, None]
        tokens = np.zeros(inside.shape, dtype=np.int64)
        tokens[inside] = self.stream[(starts[:, None] + places)[inside]]
        return torch.from_numpy(tokens), torch.from_numpy(lengths)


def _cut(ids: np.ndarray, longest: int) -> np.ndarray:
    return np.concatenate((ids[: longest - 1], ids[-1:]))
