"""Adafactor: Adam's running square kept as one row and one column (Shazeer & Stern 2018, arXiv:1804.04235)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bigtrain.optim.base import State, fused_sgd

_TINY = torch.finfo(torch.float32).eps  # under a root and in denominators


@dataclass(frozen=True)
class AdafactorRule:
    """No momentum, a fixed rate, updates clipped to `clip_threshold` (the paper's d); decay is decoupled.

    An update's root mean square is about the learning rate. The paper's is that times the weight's own (at least
    1e-3), which holds back weights that start at zero, as our residual projections do: on tiny-shakespeare (width 128,
    300 steps) the better of two such rates reached 2.05, this 1.93. A convolution kernel counts as a matrix
    (out, in · height · width).
    """

    decay_exponent: float
    clip_threshold: float
    weight_decay: float

    def initial_state(self, parameter: Tensor) -> State:
        """The step count, and the running square: of a matrix the means of its rows and columns, else entire."""
        state = {"step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
        if parameter.ndim < 2:
            return state | {"variance": torch.zeros_like(parameter)}
        rows, columns = parameter.flatten(1).shape
        return state | {"row_variance": parameter.new_zeros(rows), "column_variance": parameter.new_zeros(columns)}

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
        torch._foreach_div_(gradients, grad_scale)
        torch._foreach_add_([state["step"] for state in states], [1 - found_inf] * len(states))
        # What is new in the running square weighs t^exponent: 1 at the first step. (A skipped first step has t = 0.)
        shares = [state["step"].clamp(min=1) ** self.decay_exponent for state in states]
        averages, differences = [], []
        for gradient, state, share in zip(gradients, states, shares, strict=True):
            for key, mean in _mean_squares(gradient).items():
                averages.append(state[key])
                differences.append((state[key] - mean).mul_(share))
        fused_sgd(averages, differences, lr=1.0, found_inf=found_inf)
        for gradient, state in zip(gradients, states, strict=True):
            gradient.mul_(_variance(state, gradient).clamp_(min=_TINY**2).rsqrt_())
        self._clip(gradients)
        fused_sgd(parameters, gradients, lr=lr, found_inf=found_inf, weight_decay=self.weight_decay)

    def _clip(self, updates: list[Tensor]) -> None:
        """Scales each update down to a root mean square of `clip_threshold`."""
        norms = torch._foreach_norm(updates)
        limits = [self.clip_threshold * math.sqrt(update.numel()) for update in updates]
        torch._foreach_div_(updates, [(n / limit).clamp(min=1) for n, limit in zip(norms, limits, strict=True)])


def _mean_squares(gradient: Tensor) -> State:
    """The squares whose running means are the state: of a matrix, the means of its rows and of its columns."""
    square = gradient.square()
    if gradient.ndim < 2:
        return {"variance": square}
    matrix = square.flatten(1)
    return {"row_variance": matrix.mean(dim=1), "column_variance": matrix.mean(dim=0)}


def _variance(state: State, gradient: Tensor) -> Tensor:
    """The running square in the shape of the gradient: of a matrix, rows ⊗ columns / mean of the rows."""
    if gradient.ndim < 2:
        return state["variance"].clone()
    rows, columns = state["row_variance"], state["column_variance"]
    return torch.outer(rows, columns / rows.mean().clamp(min=_TINY)).view(gradient.shape)
