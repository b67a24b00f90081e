"""How much of one corpus stands in another, in stretches of some fifty characters: wherever they begin there, and
however lines and paragraphs fall. For corpora that one tokenizer has read; texts and images are compared as a whole
(`data/audit/seen.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigtrain.data.base import DataModule, Dataset
from bigtrain.tracking.status_line import status_line

CHARACTERS = 50  # about: some ten words in a row are said twice by copying, hardly by chance
_FEWEST_TOKENS = 8
_READ = 8192  # windows gathered at once
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


def stretch_length(data: DataModule, split: str) -> int:
    """Tokens of a stretch."""
    bytes_per_token = data.spec.bytes_per_token.get(split, 1.0)
    return max(_FEWEST_TOKENS, round(CHARACTERS / bytes_per_token))


def known_stretches(dataset: Dataset, train: Dataset, length: int) -> tuple[int, int]:
    """How many of the stretches of `length` tokens that a dataset is cut into stand somewhere in `train`; and of how
    many. Windows follow each other in both.
    """
    stream = np.concatenate([tokens for tokens, _ in _pieces(dataset, 0)])
    length = min(length, len(stream))
    count = len(stream) // length
    wanted = _hashes(stream[: count * length], length)[::length]
    kinds, kind_of = np.unique(wanted, return_inverse=True)
    seen = np.zeros(len(kinds), dtype=bool)
    with status_line("Looking for stretches of the training data") as report:
        for tokens, done in _pieces(train, length - 1):
            if len(tokens) >= length:
                hashes = _hashes(tokens, length)
                places = np.searchsorted(kinds, hashes).clip(max=len(kinds) - 1)
                seen[places[kinds[places] == hashes]] = True
            report(done)
    return int(seen[kind_of].sum()), count


def _pieces(dataset: Dataset, overlap: int) -> Iterator[tuple[np.ndarray, float]]:
    """The tokens of a split in pieces, each with the last tokens of the one before it; and how much that was."""
    held = dataset.gather(np.zeros(1, dtype=np.int64))["tokens"][0, :1].numpy()
    for first in range(0, len(dataset), _READ):
        ids = np.arange(first, min(first + _READ, len(dataset)))
        samples = dataset.gather(ids)
        targets = samples["tokens"][:, 1:]
        new = targets[samples["scored"]] if "scored" in samples else targets.flatten()
        tokens = np.concatenate((held, new.numpy()))
        yield tokens, (ids[-1] + 1) / len(dataset)
        held = tokens[len(tokens) - min(overlap, len(tokens)) :]


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """(N - length + 1,) uint64: of each stretch the sum of token · factor^place, modulo 2^64, by prefix sums."""
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03)
    mixed ^= mixed >> np.uint64(29)
    powers, inverses = _powers(_FACTOR, len(tokens)), _powers(np.uint64(pow(int(_FACTOR), -1, 1 << 64)), len(tokens))
    sums = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(mixed * powers, dtype=np.uint64)))
    return (sums[length:] - sums[:-length]) * inverses[: len(tokens) - length + 1]


def _powers(factor: np.uint64, count: int) -> np.ndarray:
    factors = np.full(count, factor, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
