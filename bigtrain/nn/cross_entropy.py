"""Cross entropy over a vocabulary straight from hidden vectors, in chunks where the logits would be large.

The gradients of a chunk are computed while its logits are at hand, so nothing of size (N, V) outlives a
chunk and no product is done twice. (`F.linear_cross_entropy` of torch 2.13 works alike, but knows no softcap,
does its softmax in the low precision of autocast, and is missing from 2.11.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigtrain.nn.autocast import autocast_dtype, without_autocast

UNSCORED = -100  # the target of a position that counts for nothing
CHUNK_LOGITS = 2**25  # 128 MiB of fp32 logits alive at once; below that the plain way is as fast or faster


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), which lies within ±cap (Gemma 2, arXiv:2408.00118); unchanged where cap is
    None.
    """
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
    chunk_logits: int = CHUNK_LOGITS,
    label_smoothing: float = 0.0,
    bias_V: Tensor | None = None,
) -> Tensor:
    """Sum over scored targets of -log softmax(softcap(hidden · weightᵀ + bias))[target], in nats; a scalar, at least
    fp32.

    With `label_smoothing` ε each target is a distribution, 1 - ε + ε/V on the token and ε/V on every other
    (arXiv:1512.00567). `targets` are int64, `UNSCORED` where nothing is asked. At most `chunk_logits` logits (and
    one row at least) are alive at once. Gradients once only: there is no second derivative when the sum is done
    in chunks.
    """
    if targets_N.numel() * weight_VD.shape[0] <= chunk_logits:
        logits_NV = vocabulary_logits(hidden_ND, weight_VD, softcap, bias_V)
        return F.cross_entropy(
            logits_NV, targets_N, ignore_index=UNSCORED, reduction="sum", label_smoothing=label_smoothing
        )
    dtype = autocast_dtype(hidden_ND.device)
    if dtype is not None and hidden_ND.dtype != torch.float64:  # autocast leaves float64 alone, too
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    rows = max(1, chunk_logits // weight_VD.shape[0])
    with without_autocast(hidden_ND.device):
        # Inside `forward` gradients are off, and needs_input_grad is true under no_grad too: so it is asked here.
        trained = any(x is not None and x.requires_grad for x in (hidden_ND, weight_VD, bias_V))
        needs_gradient = torch.is_grad_enabled() and trained
        return _ChunkedCrossEntropy.apply(
            hidden_ND, weight_VD, bias_V, targets_N, softcap, label_smoothing, rows, needs_gradient
        )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made in `forward`; `backward` only multiplies them by the incoming scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        softcap: float | None,
        label_smoothing: float,
        rows: int,
        needs_gradient: bool,
    ) -> Tensor:
        total = _at_least_fp32(hidden_ND.new_zeros(()))
        if needs_gradient:
            hidden_gradient = torch.empty_like(hidden_ND)
            weight_gradient = torch.zeros_like(weight_VD, dtype=total.dtype)
            bias_gradient = None if bias_V is None else torch.zeros_like(bias_V, dtype=total.dtype)
        for first in range(0, len(targets_N), rows):
            chunk = slice(first, first + rows)
            loss, gradient_NV = _chunk(
                hidden_ND[chunk], weight_VD, bias_V, targets_N[chunk], softcap, label_smoothing, needs_gradient
            )
            total += loss
            if gradient_NV is not None:
                hidden_gradient[chunk] = gradient_NV @ weight_VD
                weight_gradient += gradient_NV.t() @ hidden_ND[chunk]
                if bias_gradient is not None:
                    bias_gradient += gradient_NV.sum(dim=0)
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
            ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        return (
            # In fp32, and only then rounded: the unscaled sum over all targets is beyond fp16's range.
            (hidden_gradient.to(scale.dtype) * scale).to(hidden_gradient.dtype),
            (weight_gradient * scale).to(ctx.weight_dtype),
            None if bias_gradient is None else (bias_gradient * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _chunk(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    softcap: float | None,
    label_smoothing: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Loss sum of a chunk and, if wanted, its gradient with respect to the products hidden · weightᵀ + bias."""
    logits_NV = vocabulary_logits(hidden_ND, weight_VD, softcap, bias_V)
    scored_N1 = (targets_N != UNSCORED).unsqueeze(1)
    targets_N1 = targets_N.clamp_min(0).unsqueeze(1)
    log_total_N1 = logits_NV.logsumexp(dim=1, keepdim=True)
    expected_N1 = logits_NV.gather(1, targets_N1)
    if label_smoothing:
        expected_N1 = expected_N1.lerp(logits_NV.mean(dim=1, keepdim=True), label_smoothing)
    loss = ((log_total_N1 - expected_N1) * scored_N1).sum()
    if not needs_gradient:
        return loss, None
    gradient_NV = (logits_NV - log_total_N1).exp_()
    gradient_NV.scatter_(1, targets_N1, gradient_NV.gather(1, targets_N1) - (1 - label_smoothing))
    if label_smoothing:
        gradient_NV -= label_smoothing / gradient_NV.shape[1]
    gradient_NV *= scored_N1
    if softcap is not None:
        gradient_NV *= 1 - (logits_NV / softcap).square()
    return loss, gradient_NV.to(hidden_ND.dtype)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
