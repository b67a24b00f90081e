"""What holds for every registered optimizer: it learns, a skipped step is none, and its state is complete and exact."""

import subprocess
import sys

import pytest
import torch

from bigtrain.config.schema import register_parts
from bigtrain.config.settings import find_problems
from bigtrain.registry import OPTIMIZERS
from tests.optim.small_modules import (
    ONE,
    ZERO,
    Small,
    build,
    everything,
    run,
    same_bytes,
    set_gradients,
    skipped_steps_change_nothing,
)

register_parts()
EVERY = pytest.mark.parametrize("name", OPTIMIZERS.names())


@EVERY
def test_it_learns_a_small_problem_with_its_default_rate(name):
    module = Small()
    optimizer = build(name, module)
    x = torch.randn(64, 6)
    y = torch.stack((torch.sin(x[:, 0] + x[:, 1]), x[:, 2] * x[:, 3]), dim=1)
    losses = []
    for _ in range(300):
        loss = (module(x) - y).square().mean()
        losses.append(float(loss.detach()))
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        optimizer.step(ZERO, norm.clamp(min=1))  # clipped to a norm of 1, as runs are
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.0])
def test_a_skipped_step_changes_nothing_whatever_the_gradients_and_the_grad_scale(name, bad):
    skipped_steps_change_nothing(lambda module: build(name, module), bad)


@EVERY
def test_its_state_is_complete_from_the_start(name):
    module = Small()
    optimizer = build(name, module)
    before = {key: (value.shape, value.dtype) for key, value in everything(optimizer, module).items()}
    run(optimizer, module, range(10))
    assert {key: (value.shape, value.dtype) for key, value in everything(optimizer, module).items()} == before
    assert set(optimizer.state) == set(module.parameters())
    assert all(type(value) is torch.Tensor for state in optimizer.state.values() for value in state.values())


@EVERY
def test_restored_by_copying_it_goes_on_to_the_same_bytes(name):
    module, other = Small(), Small(seed=1)
    optimizer, fresh = build(name, module), build(name, other)
    run(optimizer, module, range(4))
    saved = everything(optimizer, module)
    run(optimizer, module, range(4, 8))
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            parameter.copy_(saved[key])
            for state_key, value in fresh.state[parameter].items():
                value.copy_(saved[f"{key}/{state_key}"])
    run(fresh, other, range(4, 8))
    assert same_bytes(everything(optimizer, module), everything(fresh, other))


@EVERY
def test_the_grad_scale_divides_every_gradient(name):
    module, other = Small(), Small()
    optimizer, divided = build(name, module), build(name, other)
    for step in range(3):
        set_gradients(module, step)
        optimizer.step(ZERO, torch.tensor(3.0))
        set_gradients(other, step, scale=1 / 3)
        divided.step(ZERO, ONE)
    ours, theirs = everything(optimizer, module), everything(divided, other)
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], rtol=1e-4, atol=1e-6), key


@EVERY
def test_gradients_laid_out_otherwise_mean_the_same(name):
    """A fused kernel on a CPU reads memory in order: a row-major gradient of a channels-last kernel is another one."""
    module, other = Small(), Small()
    optimizer, strided = build(name, module), build(name, other)
    for step in range(2):
        set_gradients(module, step)
        optimizer.step(ZERO, ONE)
        set_gradients(other, step)
        for parameter in other.parameters():
            parameter.grad = parameter.grad.contiguous()
        strided.step(ZERO, ONE)
    assert same_bytes(everything(optimizer, module), everything(strided, other))


@EVERY
def test_a_parameter_without_gradient_is_left_alone(name):
    module = Small()
    optimizer = build(name, module)
    run(optimizer, module, range(2))
    before = everything(optimizer, module)
    set_gradients(module, 2)
    module.backbone["square"].weight.grad = None
    optimizer.step(ZERO, ONE)
    after = everything(optimizer, module)
    unchanged = {key for key in before if torch.equal(before[key], after[key])}
    assert unchanged == {key for key in before if key.split("/")[0] == "backbone.square.weight"}


@EVERY
def test_at_rate_zero_no_weight_moves(name):
    module = Small()
    optimizer = build(name, module)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(optimizer, module, range(2))
    assert all(torch.equal(one, two) for one, two in zip(before, module.parameters(), strict=True))


@EVERY
def test_only_matrices_decay_by_default(name):
    """With gradients of zero, only decay moves a weight."""
    module = Small()
    optimizer = build(name, module, weight_decay=0.1)
    before = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(ZERO, ONE)
    moved = {key for key, parameter in module.named_parameters() if not torch.equal(before[key], parameter)}
    assert moved == {key for key, parameter in module.named_parameters() if parameter.ndim >= 2}


@EVERY
def test_settings_without_effect_are_refused(name):
    config_class = OPTIMIZERS[name].config_class
    assert not find_problems(config_class())
    assert "nothing is decayed" in str(find_problems(config_class(no_decay=["heads.*"], weight_decay=0.0))[0])
    if hasattr(config_class(), "betas"):
        assert "betas is [0.9]" in str(find_problems(config_class(betas=[0.9]))[0])
    if hasattr(config_class(), "nesterov"):
        assert "momentum is 0" in str(find_problems(config_class(momentum=0.0))[0])
        assert not find_problems(config_class(momentum=0.0, nesterov=False))


def test_none_imports_the_compiler():
    """torch.optim's own classes do, when made: 0.6 s."""
    program = """
import sys, torch
from bigtrain.config.schema import register_parts
from bigtrain.registry import OPTIMIZERS
from tests.optim.small_modules import *
register_parts()
for name in OPTIMIZERS.names():
    module = Small()
    optimizer = build(name, module)
    run(optimizer, module, range(2))
    optimizer.zero_grad()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
