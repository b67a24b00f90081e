"""Labelled images of one split, held as one array, and the facts about them. They come from
`data/images/idx.py`, `data/images/glyphs.py` and `data/synthetic/random_labels.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.permutation import permute
from bigtrain.data.splits import swap_in_missing, warn_of_missing_classes
from bigtrain.errors import DataError

S = TypeVar("S", bound=Dataset)

_SPLIT_SEED = 20240229  # fixed: every run, whatever its seed, validates on the same images
_BLOCK = 4096  # images counted at once: 3 MB of MNIST


class ImageSamples(Dataset):
    """Images (N, C, H, W) uint8 and labels (N,); with `chosen`, only those indices, in that order."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray | None = None):
        self.images = images
        self.chosen = np.arange(len(images)) if chosen is None else chosen
        self.labels: np.ndarray = labels[self.chosen].astype(np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        images = np.take(self.images, self.chosen[ids], axis=0)
        return {"images": torch.from_numpy(images), "labels": torch.from_numpy(self.labels[ids])}


def hold_out(
    images: np.ndarray, labels: np.ndarray, val_fraction: float
) -> tuple[dict[str, ImageSamples], list[np.ndarray]]:
    """Samples of train and, where the fraction is not 0, of val: each class is in both, if it has two samples.

    Also what a fingerprint must have beside their numbers: the ids of val, where classes were missing at first.
    """
    shuffled = permute(_SPLIT_SEED, 0, np.arange(len(images)), len(images))
    held_out = round(val_fraction * len(images))
    train, val = shuffled[held_out:], shuffled[:held_out]
    if val_fraction:
        train, val = swap_in_missing(labels, train, val)
    chosen = {split: np.sort(ids) for split, ids in (("train", train), ("val", val)) if len(ids)}
    samples = {split: ImageSamples(images, labels, ids) for split, ids in chosen.items()}
    return samples, [] if np.array_equal(val, shuffled[:held_out]) else [np.sort(val)]


def warn_of_missing(names: Sequence[str], samples: Mapping[str, ImageSamples], val_fraction: float) -> None:
    """Says which classes are missing in a split, where val was held out of train."""
    asked = ["train", *(["val"] if val_fraction else []), "test"]
    labels = {split: samples[split].labels if split in samples else np.empty(0, np.int64) for split in asked}
    warn_of_missing_classes(names, labels, {"val": "add images, or go without: data.val_fraction=0"})


def split_of(samples: Mapping[str, S], split: str) -> S:
    """The samples of a split. Raises DataError where there is none."""
    if split not in samples:
        raise DataError.of(
            "DATA-SPLIT", f"there is no {split} split", fix=f"raise data.{split}_fraction, or add images"
        )
    return samples[split]


def normalization(samples: ImageSamples) -> dict[str, list[float]]:
    """Mean and standard deviation of x / 255 per channel, by histogram. A constant channel has std 1."""
    return normalization_of(samples.images, samples.chosen)


def normalization_of(images: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, list[float]]:
    """The same of images (N, C, H, W) uint8, or of those that are chosen."""
    chosen = np.arange(len(images)) if chosen is None else chosen
    starts = range(0, len(chosen), _BLOCK)
    return normalization_of_blocks((images[chosen[start : start + _BLOCK]] for start in starts), images.shape[1])


def normalization_of_blocks(blocks: Iterable[np.ndarray], channels: int) -> dict[str, list[float]]:
    """The same of images that come in blocks (B, C, H, W) uint8."""
    counts = np.zeros((channels, 256), dtype=np.int64)
    for block in blocks:
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return {"mean": mean.tolist(), "std": std.tolist()}
