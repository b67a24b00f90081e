"""n-grams: the backbone returns the last n - 1 tokens at each position, and the head counts (`nn/ngram.py`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import NgramConfig
from bigtrain.models.tokens import require_tokens
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features


class Ngram(Backbone):
    """Tokens (B, T) int64 → at each position the last D = order - 1 tokens, hidden (B, T, D) int64; -1 before the text.

    The state (B, D) is the last D tokens plus 1; 0 stands for a position before the text. Raises ConfigError where the
    data has no tokens.
    """

    carries_state = True

    def __init__(self, config: NgramConfig, data_spec: DataSpec):
        super().__init__()
        require_tokens("ngram", data_spec)
        self.hidden_size = config.order - 1
        self.blocks = nn.ModuleList()
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(self.hidden_size, dtype=torch.int64), persistent=False)

    def forward(self, inputs_BT: Tensor, state: Tensor | None = None) -> Features:
        """With a state, `inputs` are the T tokens that come next."""
        before_BD = self.initial_state(len(inputs_BT)) if state is None else state
        tokens = torch.cat((before_BD, inputs_BT + 1), dim=1)
        ends = tokens.shape[1]
        next_state = None if state is None else tokens[:, ends - self.hidden_size :]
        if self.hidden_size:
            contexts_BTD = tokens.unfold(1, self.hidden_size, 1)[:, 1:] - 1
        else:
            contexts_BTD = F.pad(inputs_BT[:, :, None], (0, -1))
        return Features(hidden=contexts_BTD, pooled=None, state=next_state)

    def initial_state(self, batch: int, max_length: int = 0) -> Tensor:
        """Zeros, (B, D): at the beginning of a text. Its size does not depend on `max_length`."""
        return self.nothing.repeat(batch, 1)
