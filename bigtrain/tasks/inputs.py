"""From samples of any kind to what a backbone reads; tasks that predict one thing per sample share it."""

from __future__ import annotations

import torch

from bigtrain.data.base import DataSpec
from bigtrain.tasks.base import Batch


class Inputs:
    """Images and vectors normalised as the data's `normalization` says; sentences as they are, with their lengths."""

    def __init__(self, data_spec: DataSpec):
        # (x / unit - mean) / std as one product and one sum.
        mean = torch.tensor(data_spec.normalization.get("mean", [0.0]), dtype=torch.float64, device="cpu")
        std = torch.tensor(data_spec.normalization.get("std", [1.0]), dtype=torch.float64, device="cpu")
        unit, shape = (1, (-1,)) if data_spec.kind == "vectors" else (255, (-1, 1, 1))
        self._scale = (1 / (unit * std)).float().view(shape)
        self._shift = (-mean / std).float().view(shape)

    def __call__(self, samples: Batch) -> Batch:
        """`images` (B, C, H, W) uint8 or `vectors` (B, F) → `inputs` fp32 of that shape, normalised per channel or
        feature. Of sentences, `tokens` (B, T) → `inputs`, with their `lengths`.
        """
        if "tokens" in samples:
            return {"inputs": samples["tokens"], "lengths": samples["lengths"]}
        x = samples["images"] if "images" in samples else samples["vectors"]
        scale, shift = self._scale.to(x.device), self._shift.to(x.device)
        return {"inputs": (x.float() * scale).add_(shift)}
