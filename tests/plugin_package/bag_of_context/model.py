"""The backbone: tokens → features, and a state that carries the memory from one call to the next.

Shape suffixes: B batch, T time, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bag_of_context.config import BagOfContextConfig
from bigtrain.data.base import DataSpec
from bigtrain.errors import ConfigError
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features


class Block(nn.Module):
    """x + W gelu(m), where m_t = decay · m_(t-1) + (1 - decay) · x_t; each feature fades at its own rate."""

    def __init__(self, width: int, longest_memory: float, dropout: float):
        super().__init__()
        half_lives_D = torch.logspace(0, 1, width, base=longest_memory)
        self.register_buffer("decay_D", 0.5 ** (1 / half_lives_D), persistent=False)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, memory_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and the memory before it → (B, T, D) and the memory after it."""
        memories = []
        for x_BD in x_BTD.unbind(dim=1):
            memory_BD = torch.lerp(x_BD, memory_BD, self.decay_D)
            memories.append(memory_BD)
        added_BTD = self.output(nn.functional.gelu(torch.stack(memories, dim=1)))
        return x_BTD + self.dropout(added_BTD), memory_BD


class BagOfContext(Backbone):
    """A backbone: `hidden_size`, `blocks`, `forward`, and `initial_state` to generate."""

    def __init__(self, config: BagOfContextConfig, data_spec: DataSpec):
        super().__init__()
        if data_spec.vocab_size is None:
            raise ConfigError.of("MODEL-DATA", "model=bag_of_context reads tokens", fix="choose data that gives text")
        self.hidden_size = config.hidden_size
        self.token_embedding = nn.Embedding(data_spec.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(
            Block(config.hidden_size, config.longest_memory, config.dropout) for _ in range(config.num_layers)
        )

    def forward(self, inputs_BT: Tensor, state: list[Tensor] | None = None) -> Features:
        """Tokens (B, T) int64 → hidden (B, T, D). `state` is the memory of each block after the tokens before."""
        memories = state or self.initial_state(len(inputs_BT), 0)
        x_BTD, after = self.token_embedding(inputs_BT), []
        for block, memory_BD in zip(self.blocks, memories, strict=True):
            x_BTD, memory_BD = block(x_BTD, memory_BD)
            after.append(memory_BD)
        return Features(hidden=x_BTD, pooled=x_BTD[:, -1], state=after)

    def initial_state(self, batch: int, max_length: int) -> list[Tensor]:
        """Empty memories, (B, D) per block; their size does not depend on the length."""
        weight = self.token_embedding.weight
        return [weight.new_zeros(batch, self.hidden_size) for _ in self.blocks]
