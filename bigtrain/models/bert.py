"""BERT (arXiv:1810.04805): a bidirectional encoder of tokens and their segments (which of two texts).

Block and positions live in `nn/`; heads predict from the vectors, and the task masks tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import BertConfig, NormPosition
from bigtrain.models.tokens import embedding_rows, require_tokens
from bigtrain.nn.attention import Attention
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.block import Block
from bigtrain.nn.features import Features, padding_mask
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size
from bigtrain.nn.init import normal_embedding, normal_linear
from bigtrain.nn.norm import LayerNorm
from bigtrain.nn.positional import LearnedPositions
from bigtrain.nn.stochastic_depth import skip_probabilities

SEGMENTS = 2


class Bert(Backbone):
    """Tokens (B, T) int64 → hidden (B, T, D); pooled is a dense layer and tanh over the first position's.

    By default the mask has an embedding too where it is not in the vocabulary. With pre-norm, a last norm follows the
    blocks. Raises ConfigError where the data has no tokens, or sequences longer than
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
        self.embedding_norm = LayerNorm(width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        skips = skip_probabilities(config.stochastic_depth, config.num_layers)
        self.blocks = nn.ModuleList(_block(config, skip) for skip in skips)
        pre_norm = config.norm_position is NormPosition.pre
        self.norm = LayerNorm(width, eps=config.norm_epsilon) if pre_norm else None
        self.pooler: nn.Linear | None = normal_linear(width, width, bias=True, std=std)

    def forward(
        self,
        inputs_BT: Tensor,
        state: None = None,
        *,
        lengths: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Features:
        """Without `lengths` (B,) there is no padding; `segments` (B, T) default to 0. There is no state.

        Raises ValueError past `max_length`.
        """
        length = inputs_BT.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens, but there is room for {self.max_length} (model.max_length)")
        segment_BTD = self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments)
        x_BTD = self.positions(self.token_embedding(inputs_BT) + segment_BTD, start=0)
        x_BTD = self.dropout(self.embedding_norm(x_BTD))
        mask_B11T = None if lengths is None else padding_mask(lengths, length)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask=mask_B11T)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        pooled_BD = None if self.pooler is None else torch.tanh(self.pooler(x_BTD[:, 0]))
        return Features(hidden=x_BTD, pooled=pooled_BD)


def _block(config: BertConfig, skip_probability: float) -> Block:
    width = config.hidden_size
    std, dropout = config.init_std, config.dropout
    settings: dict[str, Any] = {"bias": True, "dropout": dropout, "std": std, "projection_std": std}
    size = config.feedforward_size or default_feedforward_size(width, "gelu")
    return Block(
        pre_norm=config.norm_position is NormPosition.pre,
        skip_probability=skip_probability,
        attention=Attention(width, config.num_heads, attention_dropout=config.attention_dropout, **settings),
        attention_norm=LayerNorm(width, eps=config.norm_epsilon),
        feedforward=FeedForward(width, size, "gelu", **settings),
        feedforward_norm=LayerNorm(width, eps=config.norm_epsilon),
    )
