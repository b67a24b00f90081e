"""Optimizers of `torch.optim`'s interface, adapted: PyTorch's own numbers, and the contract of our optimizers."""

import pytest
import torch

from bigtrain.errors import ConfigError
from bigtrain.optim.config import CommonConfig
from bigtrain.optim.torch_optimizer import TorchOptimizer
from tests.optim.small_modules import (
    ONE,
    ZERO,
    Small,
    everything,
    run,
    same_bytes,
    set_gradients,
    skipped_steps_change_nothing,
)


class Counting(torch.optim.Optimizer):
    """SGD that halves its step with every step, and keeps what it counts in Python numbers and a group's tensor."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "scale": 1.0, "weight_decay": 0.0, "steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            group["scale"] = group["scale"] * 0.5 + 0.01 / group["steps"]
            group.setdefault("sum", torch.zeros(())).add_(group["scale"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["steps"] = state.get("steps", 0) + 1
                    rate = group["lr"] * group["scale"] * group["sum"] / state["steps"]
                    parameter.sub_(rate * (parameter.grad + group["weight_decay"] * parameter))


CLASSES = {
    "nadam": (torch.optim.NAdam, {"decoupled_weight_decay": True}),
    "radam": (torch.optim.RAdam, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "asgd": (torch.optim.ASGD, {"t0": 3}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "counting": (Counting, {}),
}
EVERY = pytest.mark.parametrize("name", CLASSES)


def adapted(name, module, **settings):
    """One of them, at a rate of 0.01."""
    optimizer_class, arguments = CLASSES[name]
    return TorchOptimizer(optimizer_class, CommonConfig(learning_rate=0.01, **settings), module, **arguments)


def copy_into(optimizer, module, saved):
    """As a checkpoint is restored: by name, into what exists."""
    assert everything(optimizer, module).keys() == saved.keys()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(saved[key])
            for state_key, value in optimizer.state.get(parameter, {}).items():
                value.copy_(saved[f"{key}/{state_key}"])


@EVERY
def test_it_computes_what_the_optimizer_alone_computes(name):
    module, other = Small(), Small()
    optimizer = adapted(name, module, weight_decay=0.1)
    optimizer_class, arguments = CLASSES[name]
    matrices = [parameter for parameter in other.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in other.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    alone = optimizer_class(groups, lr=0.01, **arguments)
    for step in range(5):
        for either in (optimizer, alone):
            for group in either.param_groups:
                group["lr"] = 0.01 / (step + 1)  # as a schedule does
        set_gradients(module, step)
        optimizer.step(ZERO, ONE)
        set_gradients(other, step)
        alone.step()
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), other.parameters(), strict=True))


@EVERY
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_restored_by_copying_it_goes_on_to_the_same_bytes(name, steps):
    module, other = Small(), Small(seed=1)
    optimizer, fresh = adapted(name, module, freeze=["*.wide.*"]), adapted(name, other, freeze=["*.wide.*"])
    run(optimizer, module, range(steps))
    copy_into(fresh, other, everything(optimizer, module))
    for either, network in ((optimizer, module), (fresh, other)):
        run(either, network, range(steps, steps + 4))
    assert same_bytes(everything(optimizer, module), everything(fresh, other))


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), 1.0])
def test_a_skipped_step_changes_nothing(name, bad):
    skipped_steps_change_nothing(lambda module: adapted(name, module), bad)


@EVERY
def test_the_grad_scale_divides_and_a_parameter_without_gradient_stays(name):
    module, other = Small(), Small()
    optimizer, divided = adapted(name, module), adapted(name, other)
    for step in range(3):
        set_gradients(module, step, scale=4.0)
        set_gradients(other, step)
        for network in (module, other):
            network.backbone["square"].weight.grad = None
        optimizer.step(ZERO, torch.tensor(4.0))
        divided.step(ZERO, ONE)
    assert same_bytes(everything(optimizer, module), everything(divided, other))
    assert torch.equal(module.backbone["square"].weight, Small().backbone["square"].weight)


def test_its_keys_are_those_of_the_first_step_from_the_start():
    module = Small()
    optimizer = adapted("nadam", module)
    before = {key: (value.shape, value.dtype) for key, value in everything(optimizer, module).items()}
    run(optimizer, module, range(2))
    assert {key: (value.shape, value.dtype) for key, value in everything(optimizer, module).items()} == before
    assert {"step", "mu_product", "exp_avg", "exp_avg_sq", "started"} <= set(
        optimizer.state[module.heads["regression"].bias]
    )


def test_l1_moves_what_is_decayed_towards_zero():
    module = Small()
    optimizer = adapted("sgd", module, l1=0.5)
    before = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(ZERO, ONE)
    moved = {key for key, parameter in module.named_parameters() if not torch.equal(before[key], parameter)}
    assert moved == {key for key, parameter in module.named_parameters() if parameter.ndim >= 2}


class Late(torch.optim.SGD):
    """Makes a part of its state in its second step."""

    def step(self, closure=None):
        super().step(closure)
        for state in (self.state[parameter] for group in self.param_groups for parameter in group["params"]):
            state["late" if "seen" in state else "seen"] = 1


class Listing(torch.optim.SGD):
    """Keeps a list."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = [1]


def test_what_would_be_lost_or_have_no_effect_is_refused():
    config = CommonConfig(learning_rate=0.1)
    with pytest.raises(ConfigError, match="its history is a list"):
        TorchOptimizer(Listing, config, Small())
    with pytest.raises(ConfigError, match="it has no weight_decay"):
        TorchOptimizer(torch.optim.Rprop, CommonConfig(weight_decay=0.1), Small())
    module = Small()
    optimizer = TorchOptimizer(Late, config, module)
    run(optimizer, module, range(1))
    with pytest.raises(ConfigError, match="late came after its first step"):
        run(optimizer, module, range(1, 2))
