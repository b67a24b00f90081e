"""Muon: momentum whose matrices are made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon).

Whole matrices, as published. Cutting them into tiles of 128 costs as much on a CPU and learnt no better on
tiny-shakespeare (width 384, 3 layers, 200 steps, the same rate: validation 1.755 whole, 1.768 in tiles).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bigtrain.distributed.row_exchange import RowExchange
from bigtrain.distributed.shards import is_sharded, local, locals_of
from bigtrain.optim.base import State, fused_sgd

# Jordan's: steep at zero instead of exact at one. Of 128x512 noise, singular values come out at 0.67 … 1.14.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS_OF_ADAMW = 0.2  # of a typical AdamW update at rate 1, arXiv:2502.16982, section 2.2


@dataclass(frozen=True)
class MuonRule:
    """The nearest orthogonal matrix to the momentum, scaled to the root mean square 0.2 of an AdamW update.

    So AdamW's rates and decoupled decays carry over (arXiv:2502.16982). A convolution kernel counts as a matrix
    (out, in · height · width).
    """

    elementwise: ClassVar[bool] = False

    momentum: float
    nesterov: bool
    weight_decay: float

    def initial_state(self, parameter: Tensor) -> State:
        """The running gradient, where there is momentum."""
        return {"momentum_buffer": torch.zeros_like(parameter)} if self.momentum else {}

    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        *,
        lr: float | Tensor,
        found_inf: Tensor,
        grad_scale: Tensor,
    ) -> None:
        states = [{key: local(value) for key, value in state.items()} for state in states]
        directions = self._directions(locals_of(gradients), states, found_inf, grad_scale)
        if is_sharded(parameters[0]):
            orthogonalize_parts(directions, parameters)
        else:
            orthogonalize_all(directions)
        by_shape = defaultdict(list)
        for parameter, direction in zip(parameters, directions, strict=True):
            by_shape[parameter.shape[0], math.prod(parameter.shape[1:])].append((local(parameter), direction))
        for (rows, columns), group in by_shape.items():
            members, directions = map(list, zip(*group, strict=True))
            scale = _RMS_OF_ADAMW * math.sqrt(max(rows, columns))
            fused_sgd(
                members,
                directions,
                lr=lr * scale,
                found_inf=found_inf,
                weight_decay=self.weight_decay / scale,
            )

    def _directions(
        self, gradients: list[Tensor], states: list[State], found_inf: Tensor, grad_scale: Tensor
    ) -> list[Tensor]:
        """The momentum (with Nesterov's look-ahead) of each parameter; the states move on, unless `found_inf` is 1.

        That is a step of SGD's fused kernel from zero at rate -1: one pass with scale, momentum and skipping. Jordan
        averages where this sums, which changes the length of a direction and not what it becomes.
        """
        directions = [torch.empty_like(gradient) for gradient in gradients]
        torch._foreach_zero_(directions)
        fused_sgd(
            directions,
            gradients,
            [state["momentum_buffer"] for state in states] if self.momentum else [],
            lr=-1.0,
            found_inf=found_inf,
            grad_scale=grad_scale,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        return directions


def orthogonalize_all(directions: list[Tensor]) -> None:
    """`orthogonalize` each, as a matrix (rows, all other axes), in place; those of one shape together."""
    by_shape = defaultdict(list)
    for direction in directions:
        by_shape[tuple(direction.flatten(1).shape)].append(direction)
    for (rows, columns), group in by_shape.items():
        device = group[0].device
        matrices = torch.empty(len(group), rows, columns, dtype=orthogonalization_dtype(device), device=device)
        # One kernel each for all matrices, in and out.
        torch._foreach_copy_(matrices.unbind(), [direction.flatten(1) for direction in group])
        orthogonal = orthogonalize(matrices).unbind()
        torch._foreach_copy_(group, [x.view(y.shape) for x, y in zip(orthogonal, group, strict=True)])


def orthogonalize_parts(directions: list[Tensor], wholes: list[Tensor]) -> None:
    """`orthogonalize_all` for this rank's parts of matrices that are split over N ranks by rows (arXiv:2502.16982,
    section 2.3, with one owner for each matrix: pytorch/torchtitan#4034).

    Matrix i is gathered on rank i mod N, made orthogonal there, and its parts sent back: two all-to-alls, in which a
    rank sends and receives 1/N of all numbers each, in the dtype of the iteration. It holds 1/N of the matrices whole.
    """
    dtype = orthogonalization_dtype(directions[0].device)
    exchange = RowExchange(wholes, dtype)
    mine = exchange.gather([direction.to(dtype) for direction in directions])
    orthogonalize_all(mine)
    torch._foreach_copy_(directions, exchange.scatter(mine))


def orthogonalize(matrices: Tensor) -> Tensor:
    """(N, rows, columns) → about the nearest matrices with orthonormal rows, or columns where those are fewer.

    Newton-Schulz of fifth order, in the dtype of its input; one batched product for all N. Overwrites its input.
    A matrix of zeros stays one.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    precise = torch.promote_types(matrices.dtype, torch.float32)
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True, dtype=precise)
    x = matrices.div_(norms.clamp(min=1e-7))
    for _ in range(_ITERATIONS):
        # a x + b (x xᵀ) x + c (x xᵀ)² x, with a on the diagonal: one large product instead of one and a sum.
        gram = x.mT @ x if tall else x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        x = x @ polynomial if tall else polynomial @ x
    return x


def orthogonalization_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it, else fp32: by capability, so that a resumed run does the same."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        mkldnn = torch.backends.mkldnn
        has_bf16 = mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
