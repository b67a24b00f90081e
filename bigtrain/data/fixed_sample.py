"""A fixed sample of a split, for evaluations in training: of the training split, beside validation, as the distance
between the two is the overfit; of the validation split, where reading all of it would take too long.

Which samples are in it follows from the sizes alone, so runs with other seeds, orders and ranks measure the same ones.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bigtrain.data.base import Dataset, parts_of_sources, sources_among
from bigtrain.data.loader import evaluation_stream_count
from bigtrain.data.permutation import permute
from bigtrain.randomness import SeedDomain

TRAIN_SAMPLE = "train_eval"
"""The name of the training split's sample among the splits, and before its metrics."""

_SHARE = 5  # of the validation samples that are read, so an evaluation costs a fifth more
_LEAST, _MOST = 32, 1000


class FixedSample(Dataset):
    """`size` samples of a dataset, drawn by a permutation with the key `domain`; or, of windows that follow each other,
    stretches of neighbours spread over the whole text (`in_stretches`), which need no key.

    The stretches are those in which `evaluation_streams` reads a split, so a carried state runs on within each.
    """

    def __init__(self, dataset: Dataset, size: int, domain: SeedDomain, in_stretches: bool):
        self._dataset = dataset
        self.contiguous = in_stretches
        if dataset.sources:
            parts = zip(dataset.sources, parts_of_sources(dataset.sources, size), strict=True)
            self._ids = np.concatenate([first + _drawn(source.size, count, domain) for source, (first, count) in parts])
            self.sources = sources_among(dataset.sources, self._ids)
        else:
            self._ids = _spread(len(dataset), size) if in_stretches else _drawn(len(dataset), size, domain)
        self.lengths = None if dataset.lengths is None else dataset.lengths[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        return self._dataset.gather(self._ids[ids])


def train_sample_size(train: int, val: int) -> int:
    """A fifth of the `val` validation samples that an evaluation reads, from 32 to 1,000, and no more than either."""
    return min(train, val, max(_LEAST, min(val // _SHARE, _MOST)))


def _drawn(total: int, size: int, domain: SeedDomain) -> np.ndarray:
    """Not every k-th: labels that come in turns would be missed."""
    return np.sort(permute(domain, 0, np.arange(size), total))


def _spread(total: int, size: int) -> np.ndarray:
    count = evaluation_stream_count(size)
    stretches, regions = (np.array_split(np.arange(length), count) for length in (size, total))
    return np.concatenate([region[: len(stretch)] for stretch, region in zip(stretches, regions, strict=True)])
