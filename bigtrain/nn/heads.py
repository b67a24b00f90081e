"""Heads: small modules from a backbone's Features to predictions. Losses are the tasks' business."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bigtrain.nn.cross_entropy import vocabulary_cross_entropy, vocabulary_logits
from bigtrain.nn.features import Features


class VocabularyProjection(NamedTuple):
    """Scores over the vocabulary, not yet multiplied out, so that a loss may do it in chunks."""

    hidden_BTD: Tensor
    weight_VD: Tensor
    softcap: float | None

    def logits(self) -> Tensor:
        """(B, T, V), at least fp32."""
        return vocabulary_logits(self.hidden_BTD, self.weight_VD, self.softcap)

    def last_logits(self) -> Tensor:
        """(B, V) of the last position: all that generation needs."""
        return vocabulary_logits(self.hidden_BTD[:, -1], self.weight_VD, self.softcap)

    def cross_entropy(self, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over scored targets, in nats; see `vocabulary_cross_entropy`."""
        hidden_ND, targets_N = self.hidden_BTD.flatten(0, 1), targets_BT.flatten()
        return vocabulary_cross_entropy(
            hidden_ND, self.weight_VD, targets_N, self.softcap, label_smoothing=label_smoothing
        )


class LanguageModelHead(nn.Module):
    """A linear map D → V without bias; the weight starts from N(0, std²), by default std = 1/sqrt(D).

    (Zero, as some do, holds back everything below for the first steps: 2.01 nats against 1.95 after 200 steps
    on tiny-shakespeare, width 128.) A tied head takes the token embedding's weight instead
    (`models.network.tie_weights`). The vocabulary is not padded to a rounder size.
    """

    def __init__(self, hidden_size: int, vocab_size: int, *, softcap: float | None = None, std: float | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        nn.init.normal_(self.weight, std=std or hidden_size**-0.5)
        self.softcap = softcap

    def forward(self, features: Features) -> VocabularyProjection:
        """Needs `features.hidden`."""
        assert features.hidden is not None, "a language-model head needs a hidden vector per position"
        return VocabularyProjection(features.hidden, self.weight, self.softcap)


class ClassificationHead(nn.Module):
    """A linear map D → C on the pooled vector, initialised as PyTorch does."""

    def __init__(self, hidden_size: int, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, C). Needs `features.pooled`."""
        assert features.pooled is not None, "a classification head needs a pooled vector per sample"
        return self.linear(features.pooled)
