"""Heads: small modules from a backbone's Features to predictions; tasks compute losses from those."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.nn.cross_entropy import DEFAULT_CHUNKING, Chunking, vocabulary_cross_entropy, vocabulary_logits
from bigtrain.nn.features import Features
from bigtrain.nn.init import Normal, declare, normal_linear, uniform_linear


class VocabularyProjection(NamedTuple):
    """Logits over the vocabulary as the factors of their product, so that a loss can compute it in chunks.

    Where the weight has more rows than there are tokens, the first `num_tokens` rows are the tokens': the loss and
    `logits` include every row, as in Hugging Face's models, but generation chooses among tokens only.
    """

    hidden_BTD: Tensor
    weight_VD: Tensor
    softcap: float | None = None
    bias_V: Tensor | None = None
    num_tokens: int | None = None
    chunking: Chunking = DEFAULT_CHUNKING

    def logits(self) -> Tensor:
        """(B, T, V), at least fp32."""
        return vocabulary_logits(self.hidden_BTD, self.weight_VD, self.softcap, self.bias_V)

    def last_logits(self) -> Tensor:
        """(B, number of tokens) of the last position: all that generation needs."""
        weight_VD, bias_V = self._of_tokens()
        return vocabulary_logits(self.hidden_BTD[:, -1], weight_VD, self.softcap, bias_V)

    def argmax(self) -> Tensor:
        """(B, T) int64: the token with the largest logit at each position; computed in chunks, as the loss."""
        weight_VD, bias_V = self._of_tokens()
        hidden_ND = self.hidden_BTD.flatten(0, 1)
        chunks = hidden_ND.split(DEFAULT_CHUNKING.rows(len(hidden_ND), len(weight_VD)))
        logits = (vocabulary_logits(chunk_ND, weight_VD, self.softcap, bias_V) for chunk_ND in chunks)
        return torch.cat([chunk_NV.argmax(dim=-1) for chunk_NV in logits]).view(self.hidden_BTD.shape[:2])

    def cross_entropy(self, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over scored targets, in nats; see `vocabulary_cross_entropy`."""
        hidden_ND, targets_N = self.hidden_BTD.flatten(0, 1), targets_BT.flatten()
        return vocabulary_cross_entropy(
            hidden_ND, self.weight_VD, targets_N, self.softcap, label_smoothing, self.bias_V, self.chunking
        )

    def _of_tokens(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the rows that are tokens."""
        return self.weight_VD[: self.num_tokens], None if self.bias_V is None else self.bias_V[: self.num_tokens]


class Head(nn.Module):
    """A small module: `Features` → predictions of any form, which the task that built it reads."""

    reads_pooled = True  # False where `forward` never looks at `features.pooled`


class VocabularyHead(Head):
    """A head whose last layer maps D → V; `chunking` is how its loss is cut, set for the device that it trains on."""

    chunking = DEFAULT_CHUNKING


class LanguageModelHead(VocabularyHead):
    """A linear map D → V without bias; the weight starts from N(0, std²), by default std = 1/sqrt(D).

    (From zero, no gradient reaches the backbone in the first step: 2.01 nats against 1.95 after 200 steps on
    tiny-shakespeare, width 128.) A tied head takes the token embedding's weight instead
    (`models.network.tie_weights`). `rows` (default: `vocab_size`) can be more than there are tokens.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        rows: int | None = None,
        softcap: float | None = None,
        std: float | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows or vocab_size, hidden_size))
        declare(self, weight=Normal(std or hidden_size**-0.5))
        self.softcap, self.num_tokens = softcap, vocab_size

    def forward(self, features: Features) -> VocabularyProjection:
        """Needs `features.hidden`."""
        assert features.hidden is not None, "a language-model head needs a hidden vector per position"
        return VocabularyProjection(
            features.hidden, self.weight, self.softcap, num_tokens=self.num_tokens, chunking=self.chunking
        )


class MaskedProjection(NamedTuple):
    """A `MaskedLanguageModelHead` before its computation, which is done for requested positions only."""

    hidden_BTD: Tensor
    head: MaskedLanguageModelHead

    def at(self, positions_BM: Tensor) -> VocabularyProjection:
        """Logits at `positions` (B, M) int64 of each row."""
        rows_B1 = torch.arange(len(positions_BM), device=positions_BM.device).unsqueeze(1)
        return self.head.project(self.hidden_BTD[rows_B1, positions_BM])


class MaskedLanguageModelHead(VocabularyHead):
    """BERT's (arXiv:1810.04805): dense, GELU, layer norm, then a linear map D → V with bias.

    A tied head takes the token embedding's weight (`models.network.tie_weights`); the bias is its own. `rows`
    (default: `vocab_size`) can be more than there are tokens.
    """

    reads_pooled = False

    def __init__(self, hidden_size: int, vocab_size: int, *, rows: int | None = None, norm_epsilon: float, std: float):
        super().__init__()
        self.transform = normal_linear(hidden_size, hidden_size, bias=True, std=std)
        self.norm = nn.LayerNorm(hidden_size, eps=norm_epsilon)
        self.weight = nn.Parameter(torch.empty(rows or vocab_size, hidden_size))
        declare(self, weight=Normal(std))
        self.bias = nn.Parameter(torch.zeros(rows or vocab_size))
        self.num_tokens = vocab_size

    def forward(self, features: Features) -> MaskedProjection:
        """Needs `features.hidden`. Nothing is computed yet."""
        assert features.hidden is not None, "a masked-language-model head needs a hidden vector per position"
        return MaskedProjection(features.hidden, self)

    def project(self, hidden_BMD: Tensor) -> VocabularyProjection:
        """Logits over the vocabulary for vectors (B, M, D)."""
        hidden_BMD = self.norm(F.gelu(self.transform(hidden_BMD)))
        return VocabularyProjection(
            hidden_BMD, self.weight, bias_V=self.bias, num_tokens=self.num_tokens, chunking=self.chunking
        )


class PooledHead(Head):
    """A linear map D → outputs on the pooled vector, initialised as `nn.Linear`: logits of classes, or values."""

    def __init__(self, hidden_size: int, outputs: int):
        super().__init__()
        self.linear = uniform_linear(hidden_size, outputs)

    def forward(self, features: Features) -> Tensor:
        """(B, outputs). Needs `features.pooled`."""
        assert features.pooled is not None, "this head needs a pooled vector per sample"
        return self.linear(features.pooled)
