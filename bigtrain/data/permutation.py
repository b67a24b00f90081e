"""A keyed permutation: a Feistel network with cycle walking (Black & Rogaway 2002), so any position costs O(1)."""

from __future__ import annotations

import numpy as np

from bigtrain.randomness import mix, mix_array

_ROUNDS = 6


def permute(seed: int, epoch: int, positions: np.ndarray, size: int) -> np.ndarray:
    """Sample ids at `positions` (int64, in [0, size)) of one epoch; a bijection of range(size)."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = [mix(seed, epoch, number) for number in range(_ROUNDS)]
    ids = _feistel(positions.astype(np.uint64), half, keys)
    outside = ids >= size
    while outside.any():  # the network permutes 4**half >= size values; walk the cycle back into range(size)
        ids[outside] = _feistel(ids[outside], half, keys)
        outside = ids >= size
    return ids.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: list[int]) -> np.ndarray:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mix_array(key, right) & mask)
    return (left << shift) | right
