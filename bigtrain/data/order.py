"""Which samples make up step t: a pure function of (seed, t), the same for any world size and any resume point.

Global step t takes positions [t*B, (t+1)*B) of an endless sequence; position p lies in epoch p // n, and its sample
is permute(seed, epoch, p mod n). The permutation is a keyed Feistel network with cycle walking (Black & Rogaway
2002), so any position costs O(1) and nothing needs to be saved.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bigtrain.data.randomness import mix, mix_array

_ROUNDS = 6
_BLOCK_STEPS = 64  # ids are made for this many steps at once: 5 µs a step; one by one it was 120


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


class ShuffledOrder:
    """Every epoch visits every sample once, in an order of its own; batches run across epoch borders."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self._block = lru_cache(maxsize=2)(self._make_block)

    def ids(self, step: int) -> np.ndarray:
        """Sample ids (batch_size,) int64 of the global batch of `step`."""
        block, offset = divmod(step, _BLOCK_STEPS)
        return self._block(block)[offset]

    def _make_block(self, block: int) -> np.ndarray:
        first = block * _BLOCK_STEPS * self.batch_size
        positions = np.arange(first, first + _BLOCK_STEPS * self.batch_size, dtype=np.int64)
        epochs, within = np.divmod(positions, self.size)
        ids = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = permute(self.seed, int(epoch), within[chosen], self.size)
        return ids.reshape(_BLOCK_STEPS, self.batch_size)
