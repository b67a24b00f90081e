"""The head of a model that counts: n-gram probabilities of the next token, by Kneser-Ney smoothing.

It stores the windows of text that it has counted, and derives the tables of counts from them (`nn/kneser_ney.py`):
unlike tables, windows have a size that is known before counting, and they are smaller. The discounts are trained, on
the leave-one-out loss: in training, a token's probability comes from the counts without that token. On plain counts
the best discount would be zero.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.data.base import Dataset
from bigtrain.nn.cross_entropy import DEFAULT_CHUNKING, UNSCORED
from bigtrain.nn.features import Features
from bigtrain.nn.heads import Head
from bigtrain.nn.kneser_ney import KneserNey, joined
from bigtrain.tracking.status_line import status_line

_READ = 4096  # windows read at once
_LARGEST = (1.0, 2.0, 3.0)  # of D_1, D_2 and D_3: a discount is at most the count
_INSIDE = 1e-3  # margin at either end of that range, where the sigmoid's gradient vanishes


@runtime_checkable
class CountsTrainingSplit(Protocol):
    """A head that counts the whole training split before the first step."""

    def count(self, dataset: Dataset) -> None:
        """Counts `dataset`; earlier counts are discarded."""
        ...


class NgramPredictions(NamedTuple):
    """An `NgramHead` and contexts (B, T, order - 1); probabilities are computed for requested tokens only."""

    contexts_BTK: Tensor
    head: NgramHead

    def logits(self) -> Tensor:
        """Log-probabilities (B, T, V)."""
        return self._log_probabilities(self.contexts_BTK.flatten(0, 1)).unflatten(0, self.contexts_BTK.shape[:2])

    def last_logits(self) -> Tensor:
        """Log-probabilities (B, V) at the last position."""
        return self._log_probabilities(self.contexts_BTK[:, -1])

    def argmax(self) -> Tensor:
        """(B, T) int64: the most probable token at each position; computed in chunks, as the loss of other heads."""
        contexts_NK = self.contexts_BTK.flatten(0, 1)
        chunks = contexts_NK.split(DEFAULT_CHUNKING.rows(len(contexts_NK), self.head.vocab_size))
        found = torch.cat([self._log_probabilities(chunk_NK).argmax(dim=-1) for chunk_NK in chunks])
        return found.view(self.contexts_BTK.shape[:2])

    def cross_entropy(self, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over scored targets, in nats; in training by leave-one-out counts, except for label smoothing."""
        contexts_NK, targets_N = self.contexts_BTK.flatten(0, 1), targets_BT.flatten()
        nats_N = -self.head.probabilities(contexts_NK, targets_N.clamp(min=0)).log()
        if label_smoothing:
            over_all_N = -self._log_probabilities(contexts_NK).double().mean(dim=-1)
            nats_N = (1 - label_smoothing) * nats_N + label_smoothing * over_all_N
        # A product instead of indexing by a mask, which would synchronise with a GPU.
        return (nats_N * (targets_N != UNSCORED)).sum().to(self.head.discounts.dtype)

    def _log_probabilities(self, contexts_NK: Tensor) -> Tensor:
        probability_NV = self.head.model().distribution(contexts_NK, self.head.discounts_of_orders())
        return probability_NV.log().to(self.head.discounts.dtype)


class NgramHead(Head):
    """`windows`: number of windows, of `sequence_length` + 1 tokens each, in the training split; at most `max_tokens`
    tokens are counted.

    `discounts` (order · 3,): D_1, D_2 and D_3 of each order, divided by 1, 2 and 3, as logits. Counting sets them to
    their estimates.
    """

    reads_pooled = False

    def __init__(self, order: int, vocab_size: int, windows: int, sequence_length: int, max_tokens: int):
        super().__init__()
        self.order = order
        self.vocab_size = vocab_size
        rows = min(windows, -(-max_tokens // sequence_length))
        dtype = torch.uint8 if vocab_size <= 256 else torch.int32
        self.windows: Tensor
        self.scored: Tensor
        self.follow: Tensor
        self.register_buffer("windows", torch.zeros(rows, sequence_length + 1, dtype=dtype))
        self.register_buffer("scored", torch.zeros(rows, sequence_length, dtype=torch.uint8))
        self.register_buffer("follow", torch.zeros((), dtype=torch.uint8))  # 1: windows are consecutive
        self.largest: Tensor
        self.register_buffer("largest", torch.tensor(_LARGEST, dtype=torch.float64), persistent=False)
        self.discounts = nn.Parameter(torch.zeros(order * 3))
        self._model: KneserNey | None = None

    def forward(self, features: Features) -> NgramPredictions:
        """Needs `features.hidden`: the tokens before each position."""
        assert features.hidden is not None, "an n-gram head needs the tokens before each position"
        return NgramPredictions(features.hidden, self)

    def count(self, dataset: Dataset) -> None:
        """See `CountsTrainingSplit`. The same on every rank."""
        if len(self.windows) < len(dataset):
            warnings.warn(
                f"the first {self.scored.numel():,} tokens of the training split are counted (model.max_tokens)",
                stacklevel=2,
            )
        for first in range(0, len(self.windows), _READ):
            ids = np.arange(first, min(first + _READ, len(self.windows)))
            samples = dataset.gather(ids)
            self.windows[first : ids[-1] + 1] = samples["tokens"].to(self.windows)
            self.scored[first : ids[-1] + 1] = samples["scored"].to(self.scored) if "scored" in samples else 1
        self.follow.fill_(dataset.contiguous)
        self._model = None
        share = self.model().discounts / self.largest
        with torch.no_grad():
            self.discounts.copy_(share.clamp(_INSIDE, 1 - _INSIDE).logit().flatten())

    def model(self) -> KneserNey:
        """The counts, computed on first use from the stored windows."""
        if self._model is None:
            with torch.inference_mode(mode=False), status_line("Counting n-grams") as report:
                texts = joined(self.windows.long(), self.scored.bool(), bool(self.follow))
                self._model = KneserNey(self.order, self.vocab_size, *texts, report)
        return self._model

    def discounts_of_orders(self) -> Tensor:
        """(order, 3) fp64."""
        return self.discounts.double().sigmoid().view(self.order, 3) * self.largest

    def probabilities(self, contexts_NK: Tensor, token_N: Tensor) -> Tensor:
        """(N,) fp64; in training mode by counts without the token itself."""
        discounts = self.discounts_of_orders()
        return self.model().probabilities(contexts_NK, token_N, discounts, leave_one_out=self.training)
