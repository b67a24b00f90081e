"""Transformer: a decoder-only, pre-norm backbone for tokens (GPT-2 and its modern relatives).

Block, norms, positions and the cache live in `nn/`; the output layer is a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import Positional, TransformerConfig
from bigtrain.models.tokens import embedding_rows, require_tokens
from bigtrain.nn.attention import Attention
from bigtrain.nn.autocast import autocast_dtype
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.block import Block
from bigtrain.nn.cache import KeyValueCache
from bigtrain.nn.features import Features, document_mask, document_positions, pool
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size
from bigtrain.nn.init import normal_embedding, residual_std
from bigtrain.nn.norm import make_norm
from bigtrain.nn.positional import RotaryPositions, added_positions
from bigtrain.nn.stochastic_depth import skip_probabilities


class Transformer(Backbone):
    """Tokens (B, T) int64 → hidden (B, T, D) after a last norm; pooled (B, D) by `config.pooling`, then normed.

    There are `max_length` positions; generation stays within the first `context_length`, those that are trained.
    Raises ConfigError where the data has no tokens, or sequences longer than `config.max_length`.
    """

    def __init__(self, config: TransformerConfig, data_spec: DataSpec):
        super().__init__()
        rows = embedding_rows(config.num_embeddings, require_tokens("transformer", data_spec, config.max_length))
        self.hidden_size = config.hidden_size
        self.max_length: int = config.max_length
        self.context_length = data_spec.sequence_length or config.max_length
        self._head_size = config.hidden_size // config.num_heads
        self._pooling = config.pooling.value

        # GPT-2's 0.02 is for its width, 768. At 128, tiny-shakespeare after 200 steps: 2.24 nats against 2.01.
        std = config.init_std or config.hidden_size**-0.5
        self.token_embedding = normal_embedding(rows, config.hidden_size, std=std)
        self.positions: nn.Module | None = None
        self.rotary: nn.Module | None = None
        if config.positional is Positional.rope:
            self.rotary = RotaryPositions(config.max_length, self._head_size, base=config.rope_base)
        else:
            self.positions = added_positions(config.positional.value, config.max_length, config.hidden_size, std=std)
        self.dropout = nn.Dropout(config.dropout)
        skips = skip_probabilities(config.stochastic_depth, config.num_layers)
        self.blocks = nn.ModuleList(_block(config, std, skip) for skip in skips)
        self.norm = _norm(config)

    def forward(
        self,
        inputs_BT: Tensor,
        state: KeyValueCache | None = None,
        *,
        lengths: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Features:
        """With a state, `inputs` are the T tokens after the `state.length` already seen.

        Positions from `lengths` (B,) on are padding: no token before them sees them, and pooling leaves them out.
        `documents` (B, T): attention stays within each, and positions count from its first token in the row, so that
        each gives what it would give alone. Not together with a state.

        Raises ValueError past `max_length`, or past the room that `initial_state` made.
        """
        length = inputs_BT.shape[1]
        start = 0 if state is None else state.length
        room = self.max_length if state is None else state.room
        if start + length > room:
            raise ValueError(f"{start + length} tokens, but there is room for {room} (model.max_length or the cache)")
        x_BTD = self.token_embedding(inputs_BT)
        mask, positions_BT = None, None
        if documents is not None:
            mask, positions_BT = document_mask(documents), document_positions(documents)
        if self.positions is not None:
            x_BTD = self.positions(x_BTD, start, positions_BT)
        rotation = None if self.rotary is None else self.rotary(start, length, positions_BT)
        x_BTD = self.dropout(x_BTD)
        for index, block in enumerate(self.blocks):
            cache = None if state is None else state.layer(index)
            x_BTD = block(x_BTD, mask=mask, rotation_T21K=rotation, cache=cache)
        hidden_BTD = self.norm(x_BTD)
        next_state = None if state is None else state.extended(length)
        # Norm after pooling, so that long vectors weigh more: SST-2, bag of embeddings, 0.80 against 0.79.
        pooled_BD = self.norm(pool(x_BTD, lengths, self._pooling))
        return Features(hidden=hidden_BTD, pooled=pooled_BD, state=next_state)

    def initial_state(self, batch: int, max_length: int) -> KeyValueCache:
        """An empty cache for up to `max_length` tokens, in the dtype that attention works in.

        Raises ValueError for more positions than the model has.
        """
        if max_length > self.max_length:
            raise ValueError(f"max_length is {max_length}; this model has {self.max_length} positions")
        weight = self.token_embedding.weight
        low = autocast_dtype(weight.device)
        dtype = weight.dtype if low is None or weight.dtype == torch.float64 else low
        heads = next((block.attention.num_kv_heads for block in self.blocks), 0)  # of this rank, where they are split
        shape = (len(self.blocks), batch, heads, max_length, self._head_size)
        return KeyValueCache.empty(*shape, dtype=dtype, device=weight.device)


def _block(config: TransformerConfig, std: float, skip_probability: float) -> Block:
    """Weights start with standard deviation `std`, those of the two output projections by `projection_init`."""
    width, activation = config.hidden_size, config.activation.value
    projection_std = residual_std(config.projection_init.value, std, config.num_layers)
    return Block(
        pre_norm=True,
        skip_probability=skip_probability,
        attention_norm=_norm(config),
        attention=Attention(
            width,
            config.num_heads,
            config.num_kv_heads,
            causal=True,
            bias=config.bias,
            qk_norm_epsilon=config.norm_epsilon if config.qk_norm else None,
            dropout=config.dropout,
            std=std,
            projection_std=projection_std,
        ),
        feedforward_norm=_norm(config),
        feedforward=FeedForward(
            width,
            config.feedforward_size or default_feedforward_size(width, activation),
            activation,
            bias=config.bias,
            dropout=config.dropout,
            std=std,
            projection_std=projection_std,
        ),
    )


def _norm(config: TransformerConfig) -> nn.Module:
    return make_norm(config.norm.value, config.hidden_size, epsilon=config.norm_epsilon, bias=config.bias)
