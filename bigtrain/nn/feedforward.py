"""The feed-forward part of a transformer block: two linear layers around a nonlinearity."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.nn import cpu
from bigtrain.nn.init import normal_linear


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (Primer, arXiv:2109.08668); same shape."""
    return F.relu(x).square()


def swiglu(x: Tensor) -> Tensor:
    """(…, 2 S) → (…, S): silu(gate) * value, where the last axis is gate, then value (arXiv:2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with tanh in place of erf, as GPT-2 has it (arXiv:1606.08415); same shape."""
    return cpu.GeluTanhFunction.apply(x) if cpu.uses_own_gelu(x) else F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu_squared,
    "swiglu": swiglu,
}


def default_feedforward_size(hidden_size: int, activation: str) -> int:
    """4 D; for swiglu, which has three matrices, 8/3 D rounded up to a multiple of 8: as many parameters."""
    return -(-8 * hidden_size // 24) * 8 if activation == "swiglu" else 4 * hidden_size


class FeedForward(nn.Module):
    """projection(activation(expansion(x))), at each position independently; `size` is the hidden width.

    Weights start with standard deviation `std`, those of the projection with `projection_std`.
    """

    def __init__(
        self,
        hidden_size: int,
        size: int,
        activation: str,
        *,
        bias: bool,
        dropout: float,
        std: float,
        projection_std: float,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        widened = 2 * size if activation == "swiglu" else size
        self.expansion = normal_linear(hidden_size, widened, bias=bias, std=std)
        self.projection = normal_linear(size, hidden_size, bias=bias, std=projection_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.dropout(self.projection(self.activation(self.expansion(x_BTD))))
