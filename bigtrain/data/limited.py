"""A data module cut down for trying things out: the first samples of each split, or training samples as validation."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.loader import is_contiguous, lengths_of
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError


class LimitedData:
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
        known = [field.name for field in fields(DataSpec) if field.name.startswith("optimal_")]
        # What is learnt by heart has no optimum.
        optima: dict[str, Any] = dict.fromkeys(known) if overfit else {}
        self.spec: DataSpec = replace(
            data.spec,
            sizes=sizes,
            bytes_per_token=per_byte,
            fingerprint=fingerprint_of(data.spec.fingerprint, limit, overfit),
            **optima,
        )
        self.tokenizer: Tokenizer | None = data.tokenizer
        self.augment = getattr(data, "augment", None)

    def dataset(self, split: str) -> Dataset:
        """See `data/base.py`."""
        if split not in self.spec.sizes:
            raise DataError.of("DATA-SPLIT", f"there is no {split} split", cause="trainer.overfit=true")
        source = self._data.dataset("train" if self._overfit else split)
        return _First(source, self.spec.sizes[split])


class _First:
    """The first `size` samples of a dataset."""

    def __init__(self, dataset: Dataset, size: int):
        self._dataset = dataset
        self._size = size
        lengths = lengths_of(dataset)
        self.lengths = None if lengths is None else lengths[:size]
        self.contiguous = is_contiguous(dataset)

    def __len__(self) -> int:
        return self._size

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `data/base.py`."""
        return self._dataset.gather(ids)
