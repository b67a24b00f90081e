"""A fixed sample of the training split, to be measured like validation: the distance between the two is the overfit.

Which samples are in it follows from the sizes alone, so runs with other seeds, orders and ranks measure the same ones.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.loader import evaluation_stream_count
from bigtrain.data.order import permute
from bigtrain.randomness import SeedDomain

TRAIN_SAMPLE = "train_eval"
"""Its name among the splits, and before its metrics."""

_SHARE = 5  # of the validation split's size, so an evaluation costs a fifth more
_LEAST, _MOST = 32, 1000


class TrainSample(Dataset):
    """`size` samples of a dataset; of windows that follow each other, stretches spread over the whole text.

    The stretches are those in which `evaluation_streams` reads a split, so a carried state runs on within each.
    """

    def __init__(self, dataset: Dataset, size: int):
        self._dataset = dataset
        self.contiguous = dataset.contiguous
        self._ids = _spread(len(dataset), size) if self.contiguous else _drawn(len(dataset), size)
        self.lengths = None if dataset.lengths is None else dataset.lengths[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        return self._dataset.gather(self._ids[ids])


def train_sample_size(train: int, val: int) -> int:
    """A fifth of the validation split's size, from 32 to 1,000, and no more than either split has."""
    return min(train, val, max(_LEAST, min(val // _SHARE, _MOST)))


def _drawn(total: int, size: int) -> np.ndarray:
    """Not every k-th: labels that come in turns would be missed."""
    return np.sort(permute(SeedDomain.TRAIN_SAMPLE, 0, np.arange(size), total))


def _spread(total: int, size: int) -> np.ndarray:
    count = evaluation_stream_count(size)
    stretches, regions = (np.array_split(np.arange(length), count) for length in (size, total))
    return np.concatenate([region[: len(stretch)] for stretch, region in zip(stretches, regions, strict=True)])
