"""Faster ways of computing on CPUs, and the rules by which they are chosen: no other module of `nn/` has any.

Shapes: B batch, T time, H heads, K head width.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from bigtrain.nn.autocast import without_autocast


def uses_own_rms_norm(x: Tensor) -> bool:
    """Whether `RMSNormFunction` is faster than `F.rms_norm`: in eager mode, where there is something to differentiate.

    PyTorch 2.13 has no fused kernel for CPUs and differentiates the formula operation by operation; the gradient
    written out takes about half the time (12x64x128: 0.32 against 0.59 ms, one core).
    """
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class RMSNormFunction(torch.autograd.Function):
    """n = x r, r = 1/rms: y = n w, dx = r (g w - n mean(g w n)), dw = sum(g n); at least fp32, first order only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
        inverse_rms = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = x * inverse_rms
        ctx.save_for_backward(normed, inverse_rms, weight)
        ctx.dtype = x.dtype
        return (normed if weight is None else normed * weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse_rms, weight = ctx.saved_tensors
        gradient = gradient.to(normed.dtype)
        product = gradient * normed
        if weight is None:
            weight_gradient, mean = None, product.mean(dim=-1, keepdim=True)
            scaled = gradient
        else:
            weight_gradient = product.reshape(-1, product.shape[-1]).sum(dim=0).to(weight.dtype)
            mean = (product @ weight.to(product.dtype)).unsqueeze(-1).div_(product.shape[-1])
            scaled = gradient * weight
        x_gradient = torch.addcmul(scaled, normed, mean, value=-1).mul_(inverse_rms)
        return x_gradient.to(ctx.dtype), weight_gradient, None


def attends_in_fp32(qkv_BTHK: Tensor) -> bool:
    """Whether attention over bf16 is faster with a conversion to fp32 and back: on CPUs, for short sequences.

    PyTorch 2.13's bf16 kernel has a backward pass with a large fixed cost per head. Forward and backward on
    one AMX core, bf16 against fp32 with its conversions: T 64, K 32: 7.4 / 1.6 ms; T 128, K 32: 42 / 15; T
    256, K 32: 30 / 22; T 256, K 64: 18 / 20; T 512, K 64: 82 / 113.
    """
    _, length, _, head_size = qkv_BTHK.shape
    return qkv_BTHK.device.type == "cpu" and qkv_BTHK.dtype == torch.bfloat16 and length * head_size < 256 * 64


def recurrence_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """A context without autocast on a CPU: there oneDNN's LSTM raises if the processor has no bf16 arithmetic."""
    return without_autocast(device) if device.type == "cpu" else contextlib.nullcontext()
