"""TorchOptimizer: any optimizer with the interface of `torch.optim`, with the contract of `optim/base.py`.

Our own algorithms are `UpdateRule`s, without torch's base class. This is how others join: docs/add_an_optimizer.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bigtrain.distributed.shards import is_sharded, locals_of
from bigtrain.errors import ConfigError
from bigtrain.optim.base import Optimizer, State, move_towards_zero
from bigtrain.optim.config import CommonConfig
from bigtrain.optim.param_groups import grouped, members

_OURS = {"name", "params", "lr", "l1", "weight_decay"}  # of a parameter group: set from the settings and the schedule


class _Kept(NamedTuple):
    """What one dict of the torch optimizer's keeps from step to step, and where it is in `Optimizer.state`."""

    table: Mapping[Any, dict[str, Any]]  # `table[at]` is that dict: its state of a parameter, or a parameter group
    at: Any
    ours: State  # of that parameter; of the group's first parameter
    prefix: str  # of the names in `ours`: "" or "group."
    kinds: dict[str, type]  # key → Tensor, int, float or bool
    known: frozenset[str]  # these keys, and those of values that are None or never change


class TorchOptimizer(Optimizer):
    """Wraps `optimizer_class(groups, lr=…, **arguments)`, whose `step()` takes no closure.

    Groups follow the settings (rates, decay, freezing); one that is not decayed has `weight_decay` 0. Raises
    ConfigError for a decay that the class does not have, for a state that a checkpoint can't hold, and, where
    parameters are split over ranks, for a class that can't compute on DTensors.

    A torch optimizer makes its state of a parameter in that parameter's first step; a checkpoint has the same tensors
    from the start. So a trial step on copies shows which there are, and until `started` is 1 zeros are in their place.
    Numbers that it keeps (a step count, a step size that it has found) are fp64 scalars here.

    `found_inf` is read on the host: on a GPU a step waits for the device, and is not recorded as a CUDA graph.
    """

    recordable = False

    def __init__(
        self,
        optimizer_class: Callable[..., torch.optim.Optimizer],
        config: CommonConfig,
        module: nn.Module,
        **arguments: Any,
    ):
        make = lambda groups: optimizer_class(groups, lr=config.learning_rate, **arguments)  # noqa: E731
        groups = grouped(members(config, module), config.learning_rate, config.l1)
        self._theirs = make([group | {"weight_decay": config.weight_decay * decays} for group, decays in groups])
        if config.weight_decay and "weight_decay" not in self._theirs.defaults:
            raise self._refusal("it has no weight_decay", "optimizer.weight_decay=0")
        self.param_groups = self._theirs.param_groups
        self.state = {parameter: {} for group in self.param_groups for parameter in group["params"]}
        copies = {parameter: _copy_with_gradient(parameter) for parameter in self.state}
        trial = make([group | {"params": [copies[one] for one in group["params"]]} for group in self.param_groups])
        try:
            trial.step()
        except (RuntimeError, NotImplementedError) as error:
            if not any(map(is_sharded, self.state)):
                raise
            what = str(error).splitlines()[0]
            problem = f"it can't compute on tensors that are split over ranks ({what})"
            raise self._refusal(problem, "trainer.strategy=ddp") from error
        self._kept = [self._keep(self._theirs.state, one, trial.state[copies[one]], one, "") for one in self.state]
        for index, (group, tried) in enumerate(zip(self.param_groups, trial.param_groups, strict=True)):
            self._kept.append(self._keep({index: group}, index, tried, group["params"][0], "group."))

    def step(self, found_inf: Tensor, grad_scale: Tensor) -> None:
        """See `Optimizer.step`; reads `found_inf`."""
        if bool(found_inf):
            return
        with torch.no_grad():
            torch._foreach_div_([one.grad for one in self.state if one.grad is not None], grad_scale)
            self._put_back()
            self._theirs.step()
            self._take()
            for group in self.param_groups:
                if group["l1"]:
                    moved = [parameter for parameter in group["params"] if parameter.grad is not None]
                    move_towards_zero(locals_of(moved), group["lr"] * group["l1"], found_inf)

    def _keep(
        self, table: Mapping[Any, dict[str, Any]], at: Any, tried: dict[str, Any], parameter: nn.Parameter, prefix: str
    ) -> _Kept:
        """Makes room in the state of `parameter` for what the trial step has shown to be in `table[at]`."""
        before, kinds = table.get(at, {}), {}
        for key, value in tried.items():
            if isinstance(value, (Tensor, int, float)) and not (prefix and key in _OURS):
                kinds[key] = Tensor if isinstance(value, Tensor) else type(value)
            elif value is not None and before.get(key) is not value and key not in _OURS:
                raise self._refusal(f"its {key} is a {type(value).__name__}, which no checkpoint holds", "")
        ours = self.state[parameter]
        ours[f"{prefix}started"] = torch.zeros(())
        for key in kinds:
            value = tried[key]
            is_tensor = isinstance(value, Tensor)
            ours[f"{prefix}{key}"] = torch.zeros_like(value) if is_tensor else torch.zeros((), dtype=torch.float64)
        return _Kept(table, at, ours, prefix, kinds, frozenset(tried))

    def _put_back(self) -> None:
        """Gives the torch optimizer what `state` has, which a checkpoint may have been copied into."""
        for table, at, ours, prefix, kinds, _ in self._kept:
            if ours[f"{prefix}started"]:
                for key, kind in kinds.items():
                    value = ours[f"{prefix}{key}"]
                    table[at][key] = value if kind is Tensor else kind(value.item())

    def _take(self) -> None:
        """Takes over what the torch optimizer keeps after a step: its tensors themselves, and copies of its numbers."""
        for table, at, ours, prefix, kinds, known in self._kept:
            theirs = table.get(at, {})
            if new := theirs.keys() - known:
                raise self._refusal(f"{', '.join(sorted(new))} came after its first step, and would not be saved", "")
            if kinds.keys() <= theirs.keys():  # else the parameter has had no gradient yet
                ours[f"{prefix}started"].fill_(1)
                for key, kind in kinds.items():
                    if kind is Tensor:
                        ours[f"{prefix}{key}"] = theirs[key]
                    else:
                        ours[f"{prefix}{key}"].fill_(theirs[key])

    def _refusal(self, problem: str, fix: str) -> ConfigError:
        return ConfigError.of("OPTIM-TORCH", f"{type(self._theirs).__name__} does not fit: {problem}", fix=fix)


def _copy_with_gradient(parameter: nn.Parameter) -> nn.Parameter:
    copy = nn.Parameter(parameter.detach().clone())
    copy.grad = torch.ones_like(copy)
    return copy
