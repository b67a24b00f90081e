"""Augmentation of training texts (after EDA, arXiv:1901.11196): tokens left out, neighbours that change places.

A pure function of the samples and their keys; the first and the last token, which mark where a text begins and ends,
stay where they are.
"""

from __future__ import annotations

import numpy as np
import torch

from bigtrain.data.base import Augmentation, Samples
from bigtrain.data.text.config import TextAugmentConfig
from bigtrain.randomness import SeedDomain, uniforms


class TextAugmentation(Augmentation):
    """Changes `tokens` (B, T) and `lengths` (B,) int64."""

    def __init__(self, config: TextAugmentConfig):
        self._config = config

    def __call__(self, samples: Samples) -> Samples:
        tokens_BT, lengths_B = samples["tokens"].numpy(), samples["lengths"].numpy()
        keys = samples["keys"].numpy().view(np.uint64)
        if self._config.word_swap:
            tokens_BT = swap_neighbours(tokens_BT, lengths_B, keys, self._config.word_swap)
        if self._config.word_dropout:
            tokens_BT, lengths_B = drop_tokens(tokens_BT, lengths_B, keys, self._config.word_dropout)
        return samples | {"tokens": torch.from_numpy(tokens_BT), "lengths": torch.from_numpy(lengths_B)}


def augmentation(config: TextAugmentConfig) -> TextAugmentation | None:
    """None where nothing is to be changed."""
    return TextAugmentation(config) if config.word_dropout or config.word_swap else None


def swap_neighbours(tokens_BT: np.ndarray, lengths_B: np.ndarray, keys: np.ndarray, probability: float) -> np.ndarray:
    """Inside its frame a text is cut into pairs, from its first or its second token on; each pair is turned with this
    probability.
    """
    length = tokens_BT.shape[1]
    drawn = uniforms(keys, length + 1, SeedDomain.WORD_SWAP)
    places = np.arange(length)
    starts_B1 = 1 + (drawn[:, -1:] < 0.5)
    left = (places >= starts_B1) & ((places - starts_B1) % 2 == 0) & (places + 2 < lengths_B[:, None])
    left &= drawn[:, :-1] < probability
    right = np.roll(left, 1, axis=1)  # never round the end: the last place is no left one
    return np.take_along_axis(tokens_BT, places + left - right, axis=1)


def drop_tokens(
    tokens_BT: np.ndarray, lengths_B: np.ndarray, keys: np.ndarray, probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each token inside the frame is left out with this probability; a text keeps one at least. Tokens and lengths."""
    drawn = uniforms(keys, tokens_BT.shape[1], SeedDomain.WORD_DROPOUT)
    places = np.arange(tokens_BT.shape[1])
    inner = (places > 0) & (places < lengths_B[:, None] - 1)
    drawn[~inner] = 1.0
    spared = places == np.where(inner, drawn, -1.0).argmax(axis=1)[:, None]  # the last one to go
    kept = (places < lengths_B[:, None]) & ((drawn >= probability) | spared)
    lengths_B = kept.sum(axis=1)
    shortened = np.zeros((len(tokens_BT), lengths_B.max(initial=0)), dtype=tokens_BT.dtype)
    shortened[np.arange(shortened.shape[1]) < lengths_B[:, None]] = tokens_BT[kept]
    return shortened, lengths_B
