"""Cross entropy over a vocabulary straight from hidden vectors, in chunks where the logits would be large.

The gradients of a chunk are computed while its logits are in memory, so nothing of size (N, V) is allocated
and no product is computed twice. (`F.linear_cross_entropy` of torch 2.13 is similar, but has no softcap,
computes its softmax in the low precision of autocast, and is missing from 2.11.)

On a GPU two things decide the speed. Rows of a vocabulary of odd size are not aligned to 16 bytes, and cuBLAS then
takes kernels of an older generation (H100, V = 50257: the three products 35 ms instead of 5 at 50304): so the
low-precision copy of the weight gets rows of zeros up to a multiple of 64. And each element-wise operation on a
chunk is a pass over memory: compiled, they become one kernel.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bigtrain.nn.autocast import autocast_dtype, without_autocast
from bigtrain.nn.compiler import prepare_compiler
from bigtrain.nn.cpu import is_gpu

UNSCORED = -100  # the target of a position that the loss ignores


class Chunking(NamedTuple):
    """How the rows of a cross entropy are split into chunks, and how a chunk is computed."""

    max_logits: int = 2**25  # in memory at once; the default is 128 MiB of fp32
    plain_logits: int = 2**25  # up to here there is one chunk: PyTorch's own cross entropy is as fast or faster
    alignment: int = 1  # the vocabulary of the products is padded to a multiple of this
    compiled: bool = False  # the element-wise work of a chunk as one compiled function

    def rows(self, total: int, vocab_size: int) -> int:
        """Rows per chunk: as few chunks as fit, of equal size but for the last."""
        chunks = -(-total // max(1, self.max_logits // vocab_size))
        return max(1, -(-total // max(1, chunks)))


DEFAULT_CHUNKING = Chunking()


def chunking_for(device: torch.device) -> Chunking:
    """By a fixed rule: on a GPU a chunk's logits, 2 bytes each, take a 32nd of all the memory that the device has."""
    if device.type != "cuda":
        return DEFAULT_CHUNKING
    return gpu_chunking(torch.cuda.get_device_properties(device).total_memory)


def gpu_chunking(total_memory: int) -> Chunking:
    """The rule for a GPU with so many bytes."""
    logits = total_memory // 64
    return Chunking(max_logits=max(logits, DEFAULT_CHUNKING.max_logits), plain_logits=2**22, alignment=64)


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), which lies within ±cap (Gemma 2, arXiv:2408.00118); unchanged where cap is None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def vocabulary_logits(
    hidden_ND: Tensor, weight_VD: Tensor, softcap: float | None, bias_V: Tensor | None = None
) -> Tensor:
    """(..., D) → (..., V), at least fp32: under autocast only the product is in low precision."""
    return soft_cap(_at_least_fp32(F.linear(hidden_ND, weight_VD, bias_V)), softcap)


def vocabulary_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    bias_V: Tensor | None = None,
    chunking: Chunking = DEFAULT_CHUNKING,
) -> Tensor:
    """Sum over scored targets of -log softmax(softcap(hidden · weightᵀ + bias))[target], in nats; a scalar, at least
    fp32.

    With `label_smoothing` ε each target is a distribution, 1 - ε + ε/V on the token and ε/V on every other
    (arXiv:1512.00567). `targets` are int64, `UNSCORED` where a position is ignored. At most `chunking.max_logits`
    logits (and one row at least) are in memory at once. First order only: computed in chunks, the sum has no second
    derivative.
    """
    if targets_N.numel() * weight_VD.shape[0] <= chunking.plain_logits:
        logits_NV = vocabulary_logits(hidden_ND, weight_VD, softcap, bias_V)
        return F.cross_entropy(
            logits_NV, targets_N, ignore_index=UNSCORED, reduction="sum", label_smoothing=label_smoothing
        )
    dtype = autocast_dtype(hidden_ND.device)
    if dtype is not None and hidden_ND.dtype != torch.float64:  # autocast leaves float64 alone, too
        hidden_ND = hidden_ND.to(dtype)
    with without_autocast(hidden_ND.device):
        # Not in `forward`: gradients are disabled there, and ctx.needs_input_grad is true under no_grad too.
        trained = any(x is not None and x.requires_grad for x in (hidden_ND, weight_VD, bias_V))
        needs_gradient = torch.is_grad_enabled() and trained
        return _ChunkedCrossEntropy.apply(
            hidden_ND, weight_VD, bias_V, targets_N, softcap, label_smoothing, chunking, needs_gradient
        )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in `forward`; `backward` only multiplies them by the incoming scalar.

    The products are in the dtype of `hidden`, everything between them in fp32 at least. The weight's gradient is never
    rounded to low precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        softcap: float | None,
        label_smoothing: float,
        chunking: Chunking,
        needs_gradient: bool,
    ) -> Tensor:
        vocab_size = len(weight_VD)
        padded_PD = _padded(weight_VD, hidden_ND.dtype, chunking.alignment)
        padded_P = None if bias_V is None else _padded(bias_V, hidden_ND.dtype, chunking.alignment)
        loss_of_chunk = _compiled_chunk() if chunking.compiled else _chunk
        total = _at_least_fp32(hidden_ND.new_zeros(()))
        hidden_gradient = torch.empty_like(hidden_ND) if needs_gradient else None
        weight_gradient = bias_gradient = None
        rows = chunking.rows(len(targets_N), vocab_size)
        for first in range(0, len(targets_N), rows):
            chunk = slice(first, first + rows)
            product_NP = F.linear(hidden_ND[chunk], padded_PD, padded_P)
            total += loss_of_chunk(product_NP, targets_N[chunk], vocab_size, softcap, label_smoothing, needs_gradient)
            if hidden_gradient is not None:  # `product` now holds the gradient
                torch.mm(product_NP, padded_PD, out=hidden_gradient[chunk])
                weight_gradient = _add(weight_gradient, _weight_product(product_NP, hidden_ND[chunk], total.dtype))
                if bias_V is not None:
                    bias_gradient = _add(bias_gradient, product_NP.sum(dim=0, dtype=total.dtype))
            del product_NP  # before the next chunk needs as much
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
            ctx.vocab_size, ctx.weight_dtype = vocab_size, weight_VD.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        return (
            # In fp32, and only then rounded: the unscaled sum over all targets is beyond fp16's range.
            (hidden_gradient.to(scale.dtype) * scale).to(hidden_gradient.dtype),
            (weight_gradient[: ctx.vocab_size] * scale).to(ctx.weight_dtype),
            None if bias_gradient is None else (bias_gradient[: ctx.vocab_size] * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _chunk(
    product_NP: Tensor,
    targets_N: Tensor,
    vocab_size: int,
    softcap: float | None,
    label_smoothing: float,
    needs_gradient: bool,
) -> Tensor:
    """Loss sum of a chunk from its products (N, P), of which the first V columns count.

    With `needs_gradient`, its gradient with respect to the products overwrites them; other columns stay zero.
    """
    product_NV = product_NP[:, :vocab_size]
    logits_NV = soft_cap(_at_least_fp32(product_NV), softcap)
    scored_N1 = (targets_N != UNSCORED).unsqueeze(1)
    targets_N1 = targets_N.clamp_min(0).unsqueeze(1)
    log_total_N1 = logits_NV.logsumexp(dim=1, keepdim=True)
    expected_N1 = logits_NV.gather(1, targets_N1)
    if label_smoothing:
        expected_N1 = expected_N1.lerp(logits_NV.mean(dim=1, keepdim=True), label_smoothing)
    loss = ((log_total_N1 - expected_N1) * scored_N1).sum()
    if not needs_gradient:
        return loss
    exponent_NV = logits_NV.sub_(log_total_N1) if softcap is None else logits_NV - log_total_N1
    gradient_NV = exponent_NV.exp_()
    if torch.compiler.is_compiling():  # a scatter would be a kernel and a pass of its own
        is_target_NV = torch.arange(vocab_size, device=targets_N1.device) == targets_N1
        gradient_NV = torch.where(is_target_NV, gradient_NV - (1 - label_smoothing), gradient_NV)
    else:
        gradient_NV.scatter_(1, targets_N1, gradient_NV.gather(1, targets_N1) - (1 - label_smoothing))
    if label_smoothing:
        gradient_NV -= label_smoothing / vocab_size
    gradient_NV *= scored_N1
    if softcap is not None:
        gradient_NV *= 1 - (logits_NV / softcap).square()
    product_NV.copy_(gradient_NV)
    return loss


@cache
def _compiled_chunk() -> Any:
    """`_chunk` by Inductor, for any number of rows: one kernel that reads the products and writes their gradient."""
    prepare_compiler()
    compiled = torch.compile(_chunk)

    def call(product_NP: Tensor, targets_N: Tensor, *settings: Any) -> Tensor:
        for tensor in (product_NP, targets_N):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return compiled(product_NP, targets_N, *settings)

    return call


def _padded(values: Tensor, dtype: torch.dtype, alignment: int) -> Tensor:
    """A copy in `dtype` with zero rows after the last, up to a multiple of `alignment`; itself if nothing changes."""
    rows = -(-len(values) // alignment) * alignment
    if rows == len(values):
        return values.to(dtype)
    padded = values.new_empty((rows, *values.shape[1:]), dtype=dtype)
    padded[: len(values)] = values
    padded[len(values) :] = 0
    return padded


def _weight_product(gradient_NP: Tensor, hidden_ND: Tensor, dtype: torch.dtype) -> Tensor:
    """gradientᵀ · hidden, (P, D), added up in fp32 and kept in `dtype` where the device has such a product."""
    if is_gpu(gradient_NP.device) and gradient_NP.dtype != dtype:
        return torch.mm(gradient_NP.t(), hidden_ND, out_dtype=dtype)
    return gradient_NP.t() @ hidden_ND


def _add(total: Tensor | None, value: Tensor) -> Tensor:
    """The running sum, at least fp32."""
    return _at_least_fp32(value) if total is None else total.add_(value)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
