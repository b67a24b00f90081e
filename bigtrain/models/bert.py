"""BERT (arXiv:1810.04805): a bidirectional encoder of tokens, and of which of two texts each belongs to.

Attention, feed-forward and positions live in `nn/`; what is predicted from the vectors is a head's business, how
tokens are masked the task's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import BertConfig, NormPosition
from bigtrain.models.tokens import embedding_rows, require_tokens
from bigtrain.nn.attention import SelfAttention
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features, padding_mask
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size
from bigtrain.nn.init import normal_embedding, normal_linear
from bigtrain.nn.positional import LearnedPositions
from bigtrain.nn.stochastic_depth import StochasticDepth, skip_probabilities

SEGMENTS = 2


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + feedforward(x)), as the paper has it; or, with pre-norm (arXiv:2002.04745),
    x + attention(norm(x)), then x + feedforward(norm(x)).
    """

    def __init__(self, config: BertConfig, skip_probability: float):
        super().__init__()
        width, std = config.hidden_size, config.init_std
        self.attention = SelfAttention(
            width,
            config.num_heads,
            bias=True,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            std=std,
            projection_std=std,
        )
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.feedforward = FeedForward(
            width,
            config.feedforward_size or default_feedforward_size(width, "gelu"),
            "gelu",
            bias=True,
            dropout=config.dropout,
            std=std,
            projection_std=std,
        )
        self.feedforward_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.stochastic_depth = StochasticDepth(skip_probability)
        self._pre_norm = config.norm_position is NormPosition.pre

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        if self._pre_norm:
            x_BTD = x_BTD + self.stochastic_depth(self.attention(self.attention_norm(x_BTD), mask_B11T))
            return x_BTD + self.stochastic_depth(self.feedforward(self.feedforward_norm(x_BTD)))
        x_BTD = self.attention_norm(x_BTD + self.stochastic_depth(self.attention(x_BTD, mask_B11T)))
        return self.feedforward_norm(x_BTD + self.stochastic_depth(self.feedforward(x_BTD)))


class Bert(Backbone):
    """Tokens (B, T) int64 → hidden (B, T, D); pooled is a dense layer and tanh over the first position's.

    By default there is an embedding for the mask too, where that is no token of the vocabulary. With pre-norm, a last
    norm follows the blocks. Raises ConfigError where the data has no tokens, or sequences longer than
    `config.max_length`.
    """

    def __init__(self, config: BertConfig, data_spec: DataSpec):
        super().__init__()
        vocab_size = require_tokens("bert", data_spec, config.max_length)
        rows = embedding_rows(config.num_embeddings, vocab_size) if config.num_embeddings else data_spec.num_embeddings
        width, std = config.hidden_size, config.init_std
        self.hidden_size = width
        self.max_length: int = config.max_length
        self.token_embedding = normal_embedding(rows, width, std=std)
        self.positions = LearnedPositions(config.max_length, width, std=std)
        self.segment_embedding = normal_embedding(SEGMENTS, width, std=std)
        self.embedding_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        skips = skip_probabilities(config.stochastic_depth, config.num_layers)
        self.blocks = nn.ModuleList(Block(config, skip) for skip in skips)
        pre_norm = config.norm_position is NormPosition.pre
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon) if pre_norm else None
        self.pooler: nn.Linear | None = normal_linear(width, width, bias=True, std=std)

    def forward(
        self,
        inputs_BT: Tensor,
        state: None = None,
        *,
        lengths: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Features:
        """Without `lengths` (B,) nothing is padding; without `segments` (B, T) all is the first text. There is no
        state. Raises ValueError past `max_length`.
        """
        length = inputs_BT.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens, but there is room for {self.max_length} (model.max_length)")
        segment_BTD = self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments)
        x_BTD = self.positions(self.token_embedding(inputs_BT) + segment_BTD, start=0)
        x_BTD = self.dropout(self.embedding_norm(x_BTD))
        mask_B11T = None if lengths is None else padding_mask(lengths, length)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_B11T)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        pooled_BD = None if self.pooler is None else torch.tanh(self.pooler(x_BTD[:, 0]))
        return Features(hidden=x_BTD, pooled=pooled_BD)
