"""Faster ways of computing on CPUs, and the rules by which they are chosen: no other module of `nn/` has any.

Shapes: B batch, T time, H heads, K head width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bigtrain.nn.autocast import without_autocast

_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR
_GELU_BLOCK = 2**17  # elements: 0.5 MB in fp32


_imitates_gpu = False


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within it tensors of a CPU are computed as a GPU's would be: for a plan, which runs on tensors without values."""
    global _imitates_gpu
    before, _imitates_gpu = _imitates_gpu, True
    try:
        yield
    finally:
        _imitates_gpu = before


def is_cpu(device: torch.device) -> bool:
    """Whether to compute as on a CPU."""
    return device.type == "cpu" and not _imitates_gpu


def is_gpu(device: torch.device) -> bool:
    """Whether to compute as on a GPU."""
    return device.type == "cuda" or (device.type == "cpu" and _imitates_gpu)


def uses_own_rms_norm(x: Tensor) -> bool:
    """Whether `RMSNormFunction` is faster than `F.rms_norm`: in eager mode, where there is something to differentiate.

    PyTorch 2.13 has no fused kernel for CPUs and differentiates the formula operation by operation; the gradient
    written out takes about half the time (12x64x128: 0.32 against 0.59 ms, one core).
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and is_cpu(x.device)


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


def attends_by_products(q_BHTK: Tensor, k_BGSK: Tensor) -> bool:
    """Whether `AttentionFunction` is faster than PyTorch 2.13's kernel: bf16 on CPUs, up to 512 positions.

    The kernel's backward pass reaches a fifth of the speed of matrix products. Forward and backward on one Zen core,
    kernel against products: T 64, K 32: 15.7 / 1.1 ms (in fp32 1.9); T 256, K 64: 105 / 51; T 512, K 64: 157 / 121;
    T 1024: equal. A query or two, as in decoding, are left to the kernel.
    """
    length, source = q_BHTK.shape[2], k_BGSK.shape[2]
    if q_BHTK.dtype != torch.bfloat16 or torch.compiler.is_compiling() or not is_cpu(q_BHTK.device):
        return False
    return length >= 16 and length * source <= 512 * 512


class AttentionFunction(torch.autograd.Function):
    """softmax(q · k / sqrt(K) + bias) · v by batched products that keep the attention weights; first order only.

    q (B, H, T, K), k and v (B, H, S, K), bias broadcast to (B, H, T, S), all of one dtype, in which scores and weights
    are rounded (the softmax itself is fp32) → (B, H, T, K). `dropout`: of the weights. Relative error in bf16 against
    float64: output 3e-3, gradients 4e-3; PyTorch's kernel has 2e-3 and 3 to 4e-3.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        batch, heads, length, width = q.shape
        q, k, v = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
        ctx.scale, ctx.dropout = width**-0.5, dropout
        scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=ctx.scale)
        if bias is not None:
            scores.view(batch, heads, length, -1).add_(bias)
        weights = torch.softmax(scores, dim=-1)
        dropped, kept = torch.native_dropout(weights, dropout, True) if dropout else (weights, None)
        ctx.save_for_backward(q, k, v, weights, dropped, kept)
        return torch.bmm(dropped, v).view(batch, heads, length, width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, dropped, kept = ctx.saved_tensors
        leading = gradient.shape[:2]
        gradient = gradient.reshape(q.shape)
        dv = torch.bmm(dropped.mT, gradient)
        dweights = torch.bmm(gradient, v.mT)
        if kept is not None:
            dweights = torch.ops.aten.native_dropout_backward(dweights, kept, 1 / (1 - ctx.dropout))
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
        dq = torch.baddbmm(q.new_empty(()), dscores, k, beta=0, alpha=ctx.scale)
        dk = torch.baddbmm(q.new_empty(()), dscores.mT, q, beta=0, alpha=ctx.scale)
        return *(x.unflatten(0, leading) for x in (dq, dk, dv)), None, None


def attention_bias(q_BHTK: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """What `AttentionFunction` adds to scores: 0 where a position is seen (`mask` true), else -inf."""
    if causal:
        length = q_BHTK.shape[2]
        return torch.full((length, length), -torch.inf, dtype=q_BHTK.dtype).triu_(1)
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=q_BHTK.dtype).masked_fill_(~mask, -torch.inf)


def uses_own_gelu(x: Tensor) -> bool:
    """Whether `GeluTanhFunction` is faster than `F.gelu(approximate="tanh")`: for bf16 on CPUs, in eager mode."""
    return x.dtype == torch.bfloat16 and not torch.compiler.is_compiling() and is_cpu(x.device)


class GeluTanhFunction(torch.autograd.Function):
    """x σ(w), w = 2 sqrt(2/π) (x + 0.044715 x³), equal to GELU's tanh form (arXiv:1606.08415); first order only.

    PyTorch 2.13's kernels spend their time in tanh, once forward and once backward. Here one sigmoid gives the value
    and the derivative, which is kept in the dtype of x; work is fp32 and goes block by block, within the cache
    (768x512, one Zen core: 0.80 + 0.81 ms, here 0.75 + 0.07).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        value, slope = torch.empty_like(x), torch.empty_like(x)
        blocks = [y.view(-1).split(_GELU_BLOCK) for y in (x, value, slope)]
        for x_block, value_block, slope_block in zip(*blocks, strict=True):
            x_block = x_block.float()
            square = x_block.square()
            gate = square.mul(_GELU_CUBIC).add_(_GELU_LINEAR).mul_(x_block).sigmoid_()
            product = x_block * gate
            value_block.copy_(product)
            # σ + x σ (1 - σ) w', w' = linear + 3 cubic x²
            square.mul_(3 * _GELU_CUBIC).add_(_GELU_LINEAR).mul_(product)
            slope_block.copy_(square.addcmul_(square, gate, value=-1).add_(gate))
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradient * slope


def recurrence_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """A context without autocast on a CPU: there oneDNN's LSTM raises if the processor has no bf16 arithmetic."""
    return without_autocast(device) if device.type == "cpu" else contextlib.nullcontext()
