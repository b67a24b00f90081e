"""Linear layers that multiply in fp8 (e4m3, arXiv:2209.05433) while they train.

Of the three products of a linear layer, the output and the gradient of the input are in fp8, which tensor cores
multiply twice as fast as bf16. The gradient of the weight stays in bf16 (torchao calls this recipe
`rowwise_with_gw_hp`): it sums over all tokens, among which an fp8 scale would have to be shared, and both of its
operands would have to be copied transposed, since cuBLAS takes fp8 in one layout only.

A tensor is scaled by a power of two for each of its rows, from the largest value of the row now. So an outlier costs
its own row only, and the compiler finds the scale in the kernel that writes the row, where a scale of the whole tensor
would be a second pass over memory. Multiplying by powers of two is exact, so the product itself needs no scales: it is
the plain fp8 product, which every GPU with fp8 has (one with a scale per row is missing from some: pytorch#192707), and
what consumes it multiplies by them.

Shapes: N rows (all axes of the input but the last), D input features, O output features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# The gain of a product grows with both of its features, the cost of rounding its operands with their sum. At 1024 and
# 16k rows rounding takes about a third of what the products save (H100, by bytes and FLOPs; not yet measured).
WIDE = 1024
ALIGNMENT = 16  # of both features, for cuBLAS

_LARGEST_EXPONENT = 7  # scaled, the largest value of a row lies in [2^7, 2^8); e4m3 ends at 448
_SMALLEST = 2.0**-100  # values below count as zero


class Float8Linear(nn.Linear):
    """`nn.Linear` whose training is in fp8; see the module. In evaluation mode it is `nn.Linear`.

    Parameters are those of `nn.Linear`, under the same names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, O); in training bf16."""
        if not self.training:
            return super().forward(x)
        y_NO = _Float8Product.apply(x.reshape(-1, self.in_features), self.weight, self.bias)
        return y_NO.view(*x.shape[:-1], self.out_features)


def train_in_fp8(modules: Iterable[nn.Module]) -> int:
    """Makes every wide linear layer in the modules a `Float8Linear`, in place; returns how many there are.

    Wide: both features are at least `WIDE`, and multiples of `ALIGNMENT`. A layer that is one already counts.
    """
    wide = {linear for module in modules for linear in linear_layers(module) if _is_wide(linear)}
    for linear in wide:
        linear.__class__ = Float8Linear  # keeps the module, its parameters and their ties
    return len(wide)


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Those in a module. Other subclasses of `nn.Linear` are left out: they may compute something else."""
    return [part for part in module.modules() if type(part) in (nn.Linear, Float8Linear)]


def _is_wide(linear: nn.Linear) -> bool:
    return all(size >= WIDE and size % ALIGNMENT == 0 for size in (linear.in_features, linear.out_features))


def quantise(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 (N, D) and the scale (N, 1) that it is to be multiplied by, fp32 and a power of two for each row.

    The relative error is at most 2^-4 for values of at least 2^-13 of the row's largest. The scale of a row that is not
    finite is infinite: every product with it then becomes NaN, where e4m3, which has no infinity, would hide it.
    """
    largest_N1 = x_ND.abs().amax(dim=1, keepdim=True).float().clamp_min(_SMALLEST)
    power_N1 = (largest_N1.view(torch.int32) & 0x7F800000).view(torch.float32)  # its exponent bits; of NaN: infinity
    scale_N1 = power_N1 * 2.0**-_LARGEST_EXPONENT
    return (x_ND * scale_N1.reciprocal()).to(torch.float8_e4m3fn).contiguous(), scale_N1


class _Float8Product(torch.autograd.Function):
    """x · weightᵀ + bias in bf16, first order only; see the module."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.dtypes = x_ND.dtype, weight_OD.dtype, None if bias_O is None else bias_O.dtype
        x_ND = x_ND.to(torch.bfloat16)  # as autocast has it
        x_fp8_ND, x_scale_N1 = quantise(x_ND)
        weight_fp8_OD, weight_scale_O1 = quantise(weight_OD)
        ctx.save_for_backward(x_ND, weight_fp8_OD, weight_scale_O1)
        y_NO = _product(x_fp8_ND, weight_fp8_OD, fast=True) * x_scale_N1 * weight_scale_O1.t()
        return (y_NO if bias_O is None else y_NO + bias_O).to(torch.bfloat16)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_fp8_OD, weight_scale_O1 = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        x_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            # The weight's scales lie along the sum here: the gradient takes them, and both directions share one weight.
            scaled_NO, scale_N1 = quantise(gradient_NO * weight_scale_O1.t())
            x_gradient = (_product(scaled_NO, weight_fp8_OD.t().contiguous(), fast=False) * scale_N1).to(x_dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = (gradient_NO.to(torch.bfloat16).t() @ x_ND).to(weight_dtype)
        if ctx.needs_input_grad[2]:
            bias_gradient = gradient_NO.sum(dim=0).to(bias_dtype)
        return x_gradient, weight_gradient, bias_gradient


def _product(a_ND: Tensor, b_OD: Tensor, *, fast: bool) -> Tensor:
    """a · bᵀ in bf16, from e4m3; sums are fp32, or with `fast` about 14 bits, which are enough for an output."""
    one = torch.ones((), dtype=torch.float32, device=a_ND.device)
    return torch._scaled_mm(a_ND, b_OD.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast)
