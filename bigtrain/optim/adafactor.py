"""Adafactor: Adam's running square kept as one row and one column (Shazeer & Stern 2018, arXiv:1804.04235)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bigtrain.distributed.shards import is_sharded, local, locals_of, rows_of, sum_over_parts
from bigtrain.optim.base import State, fused_sgd

_TINY = torch.finfo(torch.float32).eps  # under a root and in denominators


@dataclass(frozen=True)
class AdafactorRule:
    """No momentum, a fixed rate, updates clipped to `clip_threshold` (the paper's d); decay is decoupled.

    An update's root mean square is about the learning rate. The paper's is that times the weight's own (at least
    1e-3), which holds back weights that start at zero, as our residual projections do: on tiny-shakespeare (width 128,
    300 steps) the better of two such rates reached 2.05, this 1.93. A convolution kernel counts as a matrix
    (out, in · height · width). Where matrices are split over ranks by rows, three collectives a step sum what concerns
    all rows: column means, the mean of the rows, norms.
    """

    elementwise: ClassVar[bool] = False

    decay_exponent: float
    clip_threshold: float
    weight_decay: float

    def initial_state(self, parameter: Tensor) -> State:
        """The step count, and the running square: of a matrix the means of its rows and columns, else entire."""
        state = {"step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
        if parameter.ndim < 2:
            return state | {"variance": torch.zeros_like(parameter)}
        columns = local(parameter).new_zeros(math.prod(parameter.shape[1:]))  # whole on every rank
        return state | {"row_variance": rows_of(parameter), "column_variance": columns}

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
        wholes, gradients = gradients, locals_of(gradients)
        states = [{key: local(value) for key, value in state.items()} for state in states]
        torch._foreach_div_(gradients, grad_scale)
        torch._foreach_add_([state["step"] for state in states], [1 - found_inf] * len(states))
        # What is new in the running square weighs t^exponent: 1 at the first step. (A skipped first step has t = 0.)
        shares = [state["step"].clamp(min=1) ** self.decay_exponent for state in states]
        averages, differences = [], []
        for means, state, share in zip(_mean_squares(gradients, wholes), states, shares, strict=True):
            for key, mean in means.items():
                averages.append(state[key])
                differences.append((state[key] - mean).mul_(share))
        fused_sgd(averages, differences, lr=1.0, found_inf=found_inf)
        for gradient, variance in zip(gradients, _variances(states, gradients, wholes), strict=True):
            gradient.mul_(variance.clamp_(min=_TINY**2).rsqrt_())
        self._clip(gradients, wholes)
        fused_sgd(locals_of(parameters), gradients, lr=lr, found_inf=found_inf, weight_decay=self.weight_decay)

    def _clip(self, updates: list[Tensor], wholes: list[Tensor]) -> None:
        """Scales each update down to a root mean square of `clip_threshold`."""
        norms = torch._foreach_norm(updates)
        if is_sharded(wholes[0]):
            squares = sum_over_parts([norm.square() for norm in norms], wholes[0])
            norms = [square.sqrt() for square in squares]
        limits = [self.clip_threshold * math.sqrt(whole.numel()) for whole in wholes]
        torch._foreach_div_(updates, [(n / limit).clamp(min=1) for n, limit in zip(norms, limits, strict=True)])


def _mean_squares(gradients: list[Tensor], wholes: list[Tensor]) -> Iterator[State]:
    """The squares whose running means are the state: of a matrix, the means of its rows and of its columns.

    `gradients` are this rank's parts of `wholes`, here and below; where those are split, column means are those of one
    collective over the ranks.
    """
    if not is_sharded(wholes[0]):
        yield from map(_mean_squares_of_part, gradients)
        return
    means = list(map(_mean_squares_of_part, gradients))
    matrices = [index for index, gradient in enumerate(gradients) if gradient.ndim > 1]
    columns = [means[index]["column_variance"] for index in matrices]
    for index, mean in zip(matrices, _over_all_rows(columns, [wholes[index] for index in matrices]), strict=True):
        means[index]["column_variance"] = mean
    yield from means


def _mean_squares_of_part(gradient: Tensor) -> State:
    square = gradient.square()
    if gradient.ndim < 2:
        return {"variance": square}
    matrix = square.flatten(1)
    return {"row_variance": matrix.mean(dim=1), "column_variance": matrix.mean(dim=0)}


def _variances(states: list[State], gradients: list[Tensor], wholes: list[Tensor]) -> Iterator[Tensor]:
    """The running squares in the shape of the gradients: of a matrix, rows ⊗ columns / mean of the rows."""
    rows = [state["row_variance"] for state in states if "row_variance" in state]
    of_rows = [whole for whole in wholes if whole.ndim > 1]
    means = iter(_over_all_rows([vector.mean() for vector in rows], of_rows))
    for state, gradient in zip(states, gradients, strict=True):
        if gradient.ndim < 2:
            yield state["variance"].clone()
        else:
            columns = state["column_variance"] / next(means).clamp(min=_TINY)
            yield torch.outer(state["row_variance"], columns).view(gradient.shape)


def _over_all_rows(means: list[Tensor], wholes: list[Tensor]) -> list[Tensor]:
    """Means over this rank's rows of `wholes` → means over all of their rows."""
    if not wholes or not is_sharded(wholes[0]):
        return means
    shares = [local(whole).shape[0] / whole.shape[0] for whole in wholes]
    # The mean of no rows is NaN.
    weighted = [mean * share if share else torch.zeros_like(mean) for mean, share in zip(means, shares, strict=True)]
    return sum_over_parts(weighted, wholes[0])
