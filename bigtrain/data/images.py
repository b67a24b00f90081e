"""Labelled images of one split, held as one array, and the facts about them. Where they come from is the
business of `data/idx.py` and `data/glyphs.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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


def normalization(samples: ImageSamples) -> dict[str, list[float]]:
    """Mean and standard deviation of x / 255 per channel, by histogram. A constant channel has std 1."""
    channels = samples.images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(samples), _BLOCK):
        block = samples.images[samples.chosen[start : start + _BLOCK]]
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return {"mean": mean.tolist(), "std": std.tolist()}
