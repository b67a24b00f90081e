"""Position encodings of a transformer: added to the embedding (learned, sinusoidal), or a rotation of q and k (RoPE).

Each takes `start`, the position of the first token, so that decoding with a cache uses the same numbers as one forward
pass over the whole sequence. Fixed tables are buffers that no checkpoint contains: they follow from the settings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigtrain.nn.init import normal_embedding


def added_positions(name: str, max_length: int, width: int, *, std: float) -> LearnedPositions | SinusoidalPositions:
    """The encoding `learned`, whose vectors start with standard deviation `std`, or `sinusoidal`."""
    if name == "learned":
        return LearnedPositions(max_length, width, std=std)
    return SinusoidalPositions(max_length, width)


class LearnedPositions(nn.Module):
    """One trained vector per position (GPT-2)."""

    def __init__(self, max_length: int, width: int, *, std: float):
        super().__init__()
        self.embedding = normal_embedding(max_length, width, std=std)

    def forward(self, x_BTD: Tensor, start: int, positions_BT: Tensor | None = None) -> Tensor:
        """Adds positions start … start+T-1, or those given."""
        if positions_BT is not None:
            return x_BTD + self.embedding(positions_BT)
        return x_BTD + self.embedding.weight[start : start + x_BTD.shape[1]]


class SinusoidalPositions(nn.Module):
    """Fixed sines and cosines of geometric wavelengths (arXiv:1706.03762, section 3.5).

    As there (section 3.4), the token embedding is multiplied by sqrt(D): its entries would be small beside the sines.
    """

    def __init__(self, max_length: int, width: int):
        super().__init__()
        angles = _angles(max_length, width, base=10000.0)
        table_TD = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("table_TD", table_TD.to(torch.get_default_dtype()), persistent=False)
        self.scale = width**0.5

    def forward(self, x_BTD: Tensor, start: int, positions_BT: Tensor | None = None) -> Tensor:
        """Adds positions start … start+T-1, or those given, to the scaled embedding."""
        if positions_BT is not None:
            return x_BTD * self.scale + self.table_TD[positions_BT]
        return x_BTD * self.scale + self.table_TD[start : start + x_BTD.shape[1]]


class RotaryPositions(nn.Module):
    """RoPE (arXiv:2104.09864): features i and i + K/2 of a head form a pair, rotated by position · base^(-2i/K).

    q · k then depends on positions by their distance only. `rotate` applies the rotation that `forward` looks up.
    """

    def __init__(self, max_length: int, head_size: int, *, base: float):
        super().__init__()
        angles = _angles(max_length, head_size, base)
        cosine, sine = angles.cos(), angles.sin()
        # Laid out so that a rotation is one concatenation, one product and one fused multiply-add; and positions first,
        # so that any number of them is contiguous: torch.export would fix the length otherwise.
        table = torch.stack((torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)), dim=1)
        self.register_buffer("table_T21K", table.unsqueeze(2).to(torch.get_default_dtype()), persistent=False)

    def forward(self, start: int, length: int, positions_BT: Tensor | None = None) -> Tensor:
        """Cosines and signed sines (T, 2, 1, K) of positions start … start+length-1; (B, T, 2, 1, K) of those given."""
        if positions_BT is not None:
            return self.table_T21K[positions_BT]
        return self.table_T21K[start : start + length]


def rotate(x_BTHK: Tensor, rotation_T21K: Tensor) -> Tensor:
    """Rotates each pair of features by its position's angle, in the dtype of `x`.

    Under autocast that is bf16, whose rounding of the sine is no larger than that of q and k themselves; fp32 would
    take three more passes over q and k.
    """
    cosine, sine = rotation_T21K.to(x_BTHK.dtype).unbind(dim=-3)
    first, second = x_BTHK.chunk(2, dim=-1)
    return torch.addcmul(x_BTHK * cosine, torch.cat((second, first), dim=-1), sine)


def _angles(length: int, width: int, base: float) -> Tensor:
    """(length, width / 2) float64: position t times frequency base^(-2i / width)."""
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
