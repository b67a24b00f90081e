"""A data module cut down for trying things out: the first samples of each split, or training samples as validation.

If the first ones lack a class (images in a folder per class), each class gives its first ones in turn.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from bigtrain.data.base import DataModule, Dataset, DataSpec, parts_of_sources, sources_among
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError


class LimitedData(DataModule):
    """`limit`: samples of each split at most, or None. `overfit`: validation is the training split; no test split.

    Bytes per token stay those of the whole split, so bits per byte are approximate for other tokens than bytes.
    """

    def __init__(self, data: DataModule, limit: int | None, overfit: bool):
        self._data = data
        self._overfit = overfit
        sizes = {split: min(size, limit or size) for split, size in data.spec.sizes.items()}
        per_byte = dict(data.spec.bytes_per_token)
        if overfit:
            sizes = {"train": sizes["train"], "val": sizes["train"]}
            per_byte = dict.fromkeys(sizes, per_byte["train"]) if per_byte else {}
        self._ids = {split: _few(self._source(split), size) for split, size in sizes.items()}
        sizes = {split: len(ids) for split, ids in self._ids.items()}
        known = [field.name for field in fields(DataSpec) if field.name.startswith("optimal_")]
        # The optimum of unseen samples is not that of memorised ones.
        optima: dict[str, Any] = dict.fromkeys(known) if overfit else {}
        self.spec: DataSpec = replace(
            data.spec,
            sizes=sizes,
            bytes_per_token=per_byte,
            fingerprint=fingerprint_of(data.spec.fingerprint, limit, overfit, *_other_than_first(self._ids)),
            **optima,
        )
        self.tokenizer: Tokenizer | None = data.tokenizer
        self.augment = data.augment

    def dataset(self, split: str) -> Dataset:
        if split not in self.spec.sizes:
            raise DataError.of("DATA-SPLIT", f"there is no {split} split", cause="trainer.overfit=true")
        return _Chosen(self._source(split), self._ids[split])

    def _source(self, split: str) -> Dataset:
        return self._data.dataset("train" if self._overfit else split)


class _Chosen(Dataset):
    """The samples of a dataset with these ids, which ascend."""

    def __init__(self, dataset: Dataset, ids: np.ndarray):
        self._dataset = dataset
        self._ids = ids
        self.lengths = None if dataset.lengths is None else dataset.lengths[ids]
        self.contiguous = dataset.contiguous
        self.sources = sources_among(dataset.sources, ids)

    def __len__(self) -> int:
        return len(self._ids)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        return self._dataset.gather(self._ids[ids])


def _few(dataset: Dataset, size: int) -> np.ndarray:
    """Ids of `size` samples, ascending: the first, or the first of each class; or about as many, the first of each
    source.
    """
    if dataset.sources:
        return np.concatenate([first + np.arange(count) for first, count in parts_of_sources(dataset.sources, size)])
    labels = dataset.labels
    if labels is None or len(np.unique(labels[:size])) == len(np.unique(labels)):
        return np.arange(size)
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(starts, counts)  # of each sample within its class
    return np.sort(by_class[np.argsort(turn, kind="stable")[:size]])


def _other_than_first(ids: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [of_split for of_split in ids.values() if not np.array_equal(of_split, np.arange(len(of_split)))]
