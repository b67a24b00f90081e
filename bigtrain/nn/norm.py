"""Normalisation layers by name, the RMS norm itself, and batch norm for images.

Under autocast the residual stream stays fp32 and so do the norms; the next linear layer casts to low precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.errors import ConfigError
from bigtrain.nn.cpu import RMSNormFunction, uses_own_rms_norm


def make_norm(name: str, width: int, *, epsilon: float, bias: bool) -> nn.Module:
    """`layernorm` (arXiv:1607.06450; bias optional) or `rmsnorm` (never a bias), over the last axis.

    Raises ValueError for another name.
    """
    if name == "layernorm":
        return LayerNorm(width, eps=epsilon, bias=bias)
    if name == "rmsnorm":
        return RMSNorm(width, epsilon)
    raise ValueError(f"norm is {name!r}; allowed: layernorm, rmsnorm")


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` (arXiv:1607.06450), also with parameters of a lower precision than its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        bias = None if self.bias is None else at_least(self.bias, x)
        return F.layer_norm(x, self.normalized_shape, at_least(self.weight, x), bias, self.eps)


def at_least(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter in the precision of `x` or its own, whichever is higher: kernels don't take a lower one. Under FSDP
    the parameters of a block are gathered in the dtype of autocast (`distributed/strategy.py`).
    """
    return parameter.to(torch.promote_types(parameter.dtype, x.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (arXiv:1910.07467)."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        return rms_norm(x, at_least(self.weight, x), self.epsilon)


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) * weight over the last axis; same shape and dtype."""
    if uses_own_rms_norm(x):
        return RMSNormFunction.apply(x, weight, epsilon)
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` (arXiv:1502.03167); statistics are per rank and micro-batch.

    Raises ConfigError in training on a single sample of a single pixel: a variance needs two values.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if self.training and x_BCHW.numel() == x_BCHW.shape[1]:
            raise ConfigError.of(
                "CONFIG-COMBINATION",
                "batch norm needs at least two samples per forward pass where a single pixel is left of each, "
                "and there is one",
                fix="raise trainer.batch_size or trainer.micro_batch_size",
            )
        return super().forward(x_BCHW)
