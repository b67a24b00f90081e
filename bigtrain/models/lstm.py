"""Recurrent networks for tokens: LSTM, GRU and plain RNN, in one direction or both, by torch's fused kernels.

The recurrent state is an input and an output, so that a language model can carry it from window to window
(`training/recurrent_state.py`) and generate token by token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import Cell, LSTMConfig, RecurrentInit
from bigtrain.models.tokens import require_tokens
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.cpu import recurrence_precision
from bigtrain.nn.features import Features, pool
from bigtrain.nn.init import Orthogonal, Uniform, declare, declare_uniform, normal_embedding, undrawn, uniform_linear

_CELLS: dict[Cell, type[nn.RNNBase]] = {Cell.lstm: nn.LSTM, Cell.gru: nn.GRU, Cell.rnn: nn.RNN}


class RecurrentLayer(nn.Module):
    """(B, T, E) → (B, T, H), or (B, T, 2 H) in both directions: from left to right, then from right to left.

    Its state is (B, K, H): h and, for an LSTM, c.
    """

    def __init__(self, config: LSTMConfig, input_size: int):
        super().__init__()
        self.left_to_right = _recurrence(config, input_size)
        self.right_to_left = _recurrence(config, input_size) if config.bidirectional else None

    def forward(
        self, x_BTE: Tensor, state_BKH: Tensor | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden vectors, and the left-to-right state after the last position. The initial state defaults to zeros."""
        with recurrence_precision(x_BTE.device):
            x_BTE = x_BTE.to(torch.promote_types(x_BTE.dtype, torch.float32))
            hidden_BTH, next_BKH = _run(self.left_to_right, x_BTE, state_BKH)
            if self.right_to_left is not None:
                from_right_BTH, _ = _run(self.right_to_left, reverse(x_BTE, lengths_B), None)
                hidden_BTH = torch.cat((hidden_BTH, reverse(from_right_BTH, lengths_B)), dim=2)
        return hidden_BTH, next_BKH


class VariationalDropout(nn.Dropout):
    """Drops the same features at every position of a sample (arXiv:1512.05287)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return x_BTD * F.dropout(torch.ones_like(x_BTD[:, :1]), self.p) if self.training else x_BTD


class LSTM(Backbone):
    """Tokens (B, T) int64 → hidden (B, T, D); pooled (B, D) over its tokens by `config.pooling`.

    The state is (B, L, K, H): for each of L layers h and, for an LSTM, c. Sequences may have any length.
    Raises ConfigError where the data has no tokens.
    """

    def __init__(self, config: LSTMConfig, data_spec: DataSpec):
        super().__init__()
        vocab_size = require_tokens("lstm", data_spec)
        self.carries_state = config.carry_state and not config.bidirectional
        self._bidirectional, self._pooling = config.bidirectional, config.pooling.value
        embedding_size = config.embedding_size or config.hidden_size
        width = config.hidden_size * (2 if config.bidirectional else 1)
        # A tied table is the output layer too, where entries of size 1 would make logits of size sqrt(D).
        std = embedding_size**-0.5 if config.tie_embeddings else 1.0
        self.token_embedding = normal_embedding(vocab_size, embedding_size, std=std)
        dropout = VariationalDropout if config.variational_dropout else nn.Dropout
        self.embedding_dropout = dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(
            RecurrentLayer(config, width if layer else embedding_size) for layer in range(config.num_layers)
        )
        self.dropout = dropout(config.dropout)
        self.projection: nn.Module = nn.Identity()
        if config.tie_embeddings and embedding_size != width:
            self.projection, width = uniform_linear(width, embedding_size), embedding_size
        self.hidden_size = width
        self._state_shape = (config.num_layers, 2 if config.cell is Cell.lstm else 1, config.hidden_size)

    def forward(self, inputs_BT: Tensor, state: Tensor | None = None, *, lengths: Tensor | None = None) -> Features:
        """With a state, `inputs` are the T tokens that come next. Raises ValueError for a state in both directions."""
        if state is not None and self._bidirectional:
            raise ValueError("a network that reads in both directions can't go on from a state")
        x_BTD = self.embedding_dropout(self.token_embedding(inputs_BT))
        states = []
        for layer, block in enumerate(self.blocks):
            x_BTD, next_BKH = block(x_BTD, None if state is None else state[:, layer], lengths)
            x_BTD = self.dropout(x_BTD)
            states.append(next_BKH)
        next_state = None if state is None else torch.stack(states, dim=1)
        hidden_BTD = self.projection(x_BTD)
        return Features(hidden=hidden_BTD, pooled=self._pooled(hidden_BTD, lengths), state=next_state)

    def initial_state(self, batch: int, max_length: int = 0) -> Tensor:
        """Zeros, (B, L, K, H): at the beginning of a text. Its size does not depend on `max_length`."""
        weight = self.token_embedding.weight  # zeros made of it would be split over ranks as it is
        return torch.zeros(batch, *self._state_shape, dtype=weight.dtype, device=weight.device)

    def _pooled(self, hidden_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        if self._pooling == "last" and self._bidirectional:
            # Each direction where it ends, having read the whole text: at the last token, and at the first.
            from_left_BTH, from_right_BTH = hidden_BTD.chunk(2, dim=2)
            return torch.cat((pool(from_left_BTH, lengths_B, "last"), from_right_BTH[:, 0]), dim=1)
        return pool(hidden_BTD, lengths_B, self._pooling)


def reverse(x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Each row's tokens in reverse order, its padding unchanged in place; its own inverse."""
    if lengths_B is None:
        return x_BTD.flip(1)
    positions_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    mirrored_BT = lengths_B[:, None] - 1 - positions_T
    order_BT = torch.where(mirrored_BT >= 0, mirrored_BT, positions_T)
    return x_BTD.gather(1, order_BT[:, :, None].expand_as(x_BTD))


def _recurrence(config: LSTMConfig, input_size: int) -> nn.RNNBase:
    """One layer in one direction. Weights start from U(-1/sqrt(H), 1/sqrt(H)), PyTorch's own, and so do biases; with
    `recurrent_init=orthogonal` those from state to state are orthogonal for each gate, and biases constant.
    """
    recurrence = undrawn(_CELLS[config.cell], input_size, config.hidden_size, batch_first=True)
    if config.recurrent_init is not RecurrentInit.orthogonal:
        declare_uniform(recurrence, config.hidden_size)
    else:
        declare(recurrence, weight_ih_l0=Uniform(config.hidden_size**-0.5), weight_hh_l0=Orthogonal(config.hidden_size))
        with torch.no_grad():
            recurrence.bias_ih_l0.zero_()
            recurrence.bias_hh_l0.zero_()
            if config.cell is Cell.lstm:  # torch's order of gates: input, forget, cell, output
                recurrence.bias_ih_l0.split(config.hidden_size)[1].fill_(1.0)
    return recurrence


def _run(recurrence: nn.RNNBase, x_BTE: Tensor, state_BKH: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden vectors (B, T, H) and the next state (B, K, H), by torch's kernel, which takes (1, B, H) per state."""
    is_lstm = isinstance(recurrence, nn.LSTM)
    given = None
    if state_BKH is not None:
        given = state_BKH.transpose(0, 1).contiguous()
        given = given.split(1) if is_lstm else given
    hidden_BTH, last = recurrence(x_BTE, given)
    return hidden_BTH, (torch.cat(last) if is_lstm else last).transpose(0, 1)
