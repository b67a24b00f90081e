"""Labelled images of one split, held as one array, and the facts about them. Where they come from is the
business of `data/images/idx.py`, `data/images/glyphs.py` and `data/synthetic/random_labels.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.order import permute
from bigtrain.errors import DataError

_SPLIT_SEED = 20240229  # fixed: every run, whatever its seed, validates on the same images
_BLOCK = 4096  # images counted at once: 3 MB of MNIST


class ImageSamples:
    """Images (N, C, H, W) uint8 and labels (N,); with `chosen`, only those indices, in that order."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray | None = None):
        self.images = images
        self.chosen = np.arange(len(images)) if chosen is None else chosen
        self.labels = labels[self.chosen].astype(np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `data/base.py`."""
        images = np.take(self.images, self.chosen[ids], axis=0)
        return {"images": torch.from_numpy(images), "labels": torch.from_numpy(self.labels[ids])}


def as_path(path: str) -> Path:
    """The path of a setting, which no shell has expanded."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of an unknown user: reported as something that is not there
        return Path(path)


def hold_out(images: np.ndarray, labels: np.ndarray, val_fraction: float) -> dict[str, ImageSamples]:
    """Samples of train and, where the fraction comes to any, of val. Raises DataError where train would be empty."""
    shuffled = permute(_SPLIT_SEED, 0, np.arange(len(images)), len(images))
    held_out = round(val_fraction * len(images))
    if held_out == len(images):
        raise DataError.of(
            "DATA-SPLIT",
            f"data.val_fraction={val_fraction} of {len(images):,} images leaves nothing to train on",
            fix="lower data.val_fraction",
        )
    samples = {"train": ImageSamples(images, labels, np.sort(shuffled[held_out:]))}
    if held_out:
        samples["val"] = ImageSamples(images, labels, np.sort(shuffled[:held_out]))
    return samples


def split_of(samples: dict[str, ImageSamples], split: str) -> ImageSamples:
    """The samples of a split. Raises DataError where there is none."""
    if split not in samples:
        raise DataError.of("DATA-SPLIT", f"there is no {split} split", fix="raise data.val_fraction")
    return samples[split]


def normalization(samples: ImageSamples) -> dict[str, list[float]]:
    """Mean and standard deviation of x / 255 per channel, by histogram. A constant channel has std 1."""
    return normalization_of(samples.images, samples.chosen)


def normalization_of(images: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, list[float]]:
    """The same of images (N, C, H, W) uint8, or of those that are chosen."""
    chosen = np.arange(len(images)) if chosen is None else chosen
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(chosen), _BLOCK):
        block = images[chosen[start : start + _BLOCK]]
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return {"mean": mean.tolist(), "std": std.tolist()}
