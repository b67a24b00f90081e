"""Stateless randomness: every random number is a function of (seed, where it is used), never of history.

So there is no generator state to save, and resuming at any step draws what the uninterrupted run would have drawn.
The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """A 64-bit hash of a few integers; every bit of the result depends on every bit of every part."""
    value = 0
    for part in parts:
        value = (value ^ (part & _MASK)) + _GOLDEN & _MASK
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
        value ^= value >> 31
    return value


def mix_array(key: int, values: np.ndarray) -> np.ndarray:
    """`mix` of one key with many values: uint64 in, uint64 out, vectorised."""
    mixed = (values ^ np.uint64(key)) + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
