"""The optimizer: groups of parameters, the rule that updates each, and the state that those rules keep.

Not torch's own base class: making one of those imports torch's compiler (0.6 s of start-up), creates its state at the
first step, and reads `grad_scale` and `found_inf` from attributes of the optimizer. Here the state is complete from the
start, so that a checkpoint always has the same keys, and the two are arguments of `step`. An algorithm is an
`UpdateRule`; an optimizer has one per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from bigtrain.distributed.shards import is_sharded, local, locals_of

State = dict[str, Tensor]


class UpdateRule(Protocol):
    """One algorithm with its settings. Immutable: all that changes from step to step is in the states."""

    elementwise: ClassVar[bool]
    """Whether what becomes of an element follows from its own gradient and state alone. `update` then gets this rank's
    parts where tensors are split over ranks (`distributed/shards.py`); else the sharded tensors themselves.
    """

    def initial_state(self, parameter: Tensor) -> State:
        """The state of one parameter before its first step, on its device."""
        ...

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
        """One step in place, with the learning rate `lr`; the other two as `Optimizer.step` has them.

        The gradients have the strides of their parameters, and may be overwritten.
        """
        ...


class Optimizer:
    """Updates groups of parameters, each `{"name": str, "params": list, "lr": float, "l1": float, "rule": UpdateRule}`.

    `lr` is the initial rate; the trainer sets it before each step, to a number or to a scalar on the device. `state`
    has one entry per parameter with that rule's tensors, whose keys never change. `TorchOptimizer` overrides
    `__init__` and `step`.
    """

    recordable = True
    """Whether a step may be recorded as a CUDA graph: it reads nothing on the host."""

    def __init__(self, param_groups: list[dict[str, Any]]):
        self.param_groups = param_groups
        self.state: dict[nn.Parameter, State] = {
            parameter: group["rule"].initial_state(parameter.detach())
            for group in param_groups
            for parameter in group["params"]
        }

    def step(self, found_inf: Tensor, grad_scale: Tensor) -> None:
        """One update from the gradients in `.grad`, without waiting for the device.

        As torch's fused kernels take them, both fp32 scalars on the device. `found_inf`: at 1 the step is skipped,
        neither weights nor state change, whatever the gradients are; else 0. `grad_scale`: every gradient is divided
        by it (global-norm clipping; 1 for none). A parameter without a gradient is left alone. May overwrite the
        gradients.
        """
        with torch.no_grad():
            for group in self.param_groups:
                parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
                if parameters:
                    gradients = [_laid_out_as(parameter, parameter.grad) for parameter in parameters]
                    states = [self.state[parameter] for parameter in parameters]
                    if group["rule"].elementwise:
                        parameters, gradients = locals_of(parameters), locals_of(gradients)
                        states = [{key: local(value) for key, value in state.items()} for state in states]
                    group["rule"].update(
                        parameters, gradients, states, lr=group["lr"], found_inf=found_inf, grad_scale=grad_scale
                    )
                    if group["l1"]:
                        move_towards_zero(locals_of(parameters), group["lr"] * group["l1"], found_inf)

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def fused_sgd(
    targets: list[Tensor],
    gradients: list[Tensor],
    buffers: Sequence[Tensor] = (),
    *,
    lr: float | Tensor,
    found_inf: Tensor,
    grad_scale: Tensor | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> None:
    """A step of SGD: g = gradient / grad_scale + weight_decay · target; then target ← target - lr · g.

    With momentum: buffer ← momentum · buffer + g, and the target follows the buffer. Where `found_inf` is 1 not a bit
    changes. Other rules use this kernel too, for target ← target - lr · direction. Tensors of the same index must have
    the same strides.
    """
    torch._fused_sgd_(
        targets,
        gradients,
        list(buffers),
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def move_towards_zero(targets: list[Tensor], threshold: float, found_inf: Tensor) -> None:
    """Every element by `threshold`, not beyond zero (the proximal step of an L1 penalty); unless `found_inf` is 1."""
    steps = torch._foreach_clamp_max(targets, threshold)
    torch._foreach_clamp_min_(steps, -threshold)
    fused_sgd(targets, steps, lr=1.0, found_inf=found_inf)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its parameter: fused kernels on a CPU ignore strides. (Sharded
    ones are contiguous.)
    """
    if is_sharded(parameter) or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
