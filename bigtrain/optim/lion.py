"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bigtrain.distributed.shards import zeros_like
from bigtrain.optim.base import State, fused_sgd


@dataclass(frozen=True)
class LionRule:
    """Every weight moves by exactly the learning rate, plus decoupled decay; half the state of Adam."""

    elementwise: ClassVar[bool] = True

    betas: tuple[float, float]
    weight_decay: float

    def initial_state(self, parameter: Tensor) -> State:
        """The running mean."""
        return {"exp_avg": zeros_like(parameter)}

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
        means = [state["exp_avg"] for state in states]
        torch._foreach_div_(gradients, grad_scale)
        directions = torch._foreach_lerp(means, gradients, 1 - self.betas[0])
        torch._foreach_sign_(directions)
        differences = torch._foreach_sub(means, gradients)
        fused_sgd(parameters, directions, lr=lr, found_inf=found_inf, weight_decay=self.weight_decay)
        fused_sgd(means, differences, lr=1 - self.betas[1], found_inf=found_inf)
