"""Samples with values to predict: what synthetic data for regression shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset


class ValueSamples(Dataset):
    """`inputs` (N, …) under the name of their kind, and `values` (N, K) as float32; `gather` as in `data/base.py`."""

    def __init__(self, kind: str, inputs: np.ndarray, values: np.ndarray):
        self.kind = kind
        self.inputs = inputs
        self.values = values.astype(np.float32)

    def __len__(self) -> int:
        return len(self.inputs)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        return {self.kind: torch.from_numpy(self.inputs[ids]), "values": torch.from_numpy(self.values[ids])}


def facts_of_values(train: ValueSamples, names: tuple[str, ...], noise: np.ndarray) -> dict[str, Any]:
    """The fields of a DataSpec about values that carry independent `noise` (K,), its standard deviations.

    No model can foretell the noise, so the square error of standardised values is at least its mean share of their
    variance in the training split. A value that never varies has std 1.
    """
    mean, std = (getattr(train.values, name)(axis=0, dtype=np.float64) for name in ("mean", "std"))
    std = np.where(std > 0, std, 1.0)
    return {
        "values": names,
        "value_normalization": {"mean": mean.tolist(), "std": std.tolist()},
        "optimal_loss": float(np.square(noise / std).mean()),
    }
