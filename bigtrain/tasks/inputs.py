"""From samples of any kind, and from a typed prompt, to what a backbone reads; the tasks share it."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.text.ragged import Ragged
from bigtrain.data.tokenizers.tokenizer import Tokenizer
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


def first_samples(data: DataModule, split: str, count: int) -> Batch:
    """The first `count` samples of a split, or all where there are fewer."""
    dataset = data.dataset(split)
    return dataset.gather(np.arange(min(count, len(dataset))))


def prompt_tokens(prompt: str, tokenizer: Tokenizer, longest: int | None) -> tuple[Tensor, Tensor]:
    """The tokens (1, T) of a typed text between the marks of its beginning and end, and their number (1,).

    Over `longest` tokens it is cut as the texts of the training were, and stderr says so.
    """
    tokens = Ragged.framed([prompt], tokenizer)
    if longest is not None and tokens.lengths[0] > longest:
        print(f"the text has {tokens.lengths[0]:,} tokens; its first {longest:,} are read", file=sys.stderr)
        tokens = tokens.truncated(longest)
    return tokens.padded([0])
