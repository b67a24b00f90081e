"""Stateless randomness: every random number is a function of (seed, where it is used), never of history.

So there is no generator state to save, and resuming at any step draws what the uninterrupted run would have drawn.
The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@unique
class SeedDomain(IntEnum):
    """What a random number is for. It is mixed into the seed or into a sample's key, so that no two uses of one seed
    draw the same numbers. The values are arbitrary, and part of what makes a run reproducible: never change one.
    """

    INITIALISATION = 0x1217  # initial weights
    SAMPLE_KEYS = 0x5A3B1E  # the key of a sample in an epoch
    EVALUATION = 0xE7A1  # sample keys of an evaluation, which are the same for every run
    POOLS = 0x9001  # which samples share a pool, in batches of similar lengths
    BATCH_ORDER = 0xBA7C  # the order of those batches in an epoch
    MIXED_SOURCES = 0x3153  # which source each position of a block of a mixture comes from
    SOURCE_ORDER = 0x50DE  # the order of a source's samples in an epoch of it
    STREAM_OFFSET = 0x57EA  # where the first window of an epoch begins, for models that carry a state
    TRAIN_SAMPLE = 0x7EA1  # training samples that are evaluated beside the validation split
    VALIDATION_SAMPLE = 0x7A15  # validation samples that are evaluated in training, where not all are
    NORMALIZATION_SAMPLE = 0x40A1  # training images whose mean and deviation stand for those of all
    BASELINE_SAMPLES = 0xBA5E  # training samples that the baselines read, where not all are
    PARTNERS = 0x9A127  # the second sample, for tasks that need one
    SECOND_TEXT = 0x2E47  # whether the second text of a pair is the one that follows (next-sentence prediction)
    MASKED_POSITIONS = 0x3A5C
    MASK_REPLACEMENT = 0xFA7E  # [MASK], a random token, or the token itself
    MASK_RANDOM_TOKEN = 0x70CE
    WORD_DROPOUT = 0xD407
    WORD_SWAP = 0x5A4B
    IMAGE_AUGMENTATION = 0xA06
    MIXUP = 0xA07
    MIXUP_PARTNER = 0xA08  # the key of a partner, from that of its sample
    FINAL_SAMPLE = 0xF1A1  # the text generated at the end of a run


def mix(*parts: int) -> int:
    """A 64-bit hash of a few integers; every bit of the result depends on every bit of every part."""
    value = 0
    for part in parts:
        value = (value ^ (part & _MASK)) + _GOLDEN & _MASK
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
        value ^= value >> 31
    return value


def mix_array(key: int | np.ndarray, values: np.ndarray) -> np.ndarray:
    """A hash of values with one key, or with a key each (broadcast): uint64 in, uint64 out, vectorised."""
    mixed = (values ^ np.asarray(key, dtype=np.uint64)) + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def sample_keys(seed: int, epochs: np.ndarray | int, ids: np.ndarray) -> np.ndarray:
    """A key (N,) uint64 per sample and epoch: all that is random about a sample (masks, augmentation) follows from
    it.
    """
    per_epoch = mix_array(mix(seed, SeedDomain.SAMPLE_KEYS), np.atleast_1d(epochs).astype(np.uint64))
    return mix_array(per_epoch, ids.astype(np.uint64))


def uniforms(keys: np.ndarray, count: int, domain: int) -> np.ndarray:
    """(N, count) float64 in [0, 1) from keys (N,) uint64. Each use of a key has a `domain` of its own."""
    numbers = mix_array(mix(domain), np.arange(count, dtype=np.uint64))
    mixed = mix_array(mix_array(keys[:, None], numbers), np.zeros(1, dtype=np.uint64))
    return (mixed >> np.uint64(11)) * 2.0**-53
