"""Schedules are pure functions of the step; optimizers decay matrices only and start with complete state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bigtrain.optim.config import AdamWConfig, ConstantConfig, CosineConfig, LinearConfig, SGDConfig
from bigtrain.optim.optimizers import adamw, sgd
from bigtrain.optim.param_groups import decay_groups
from bigtrain.optim.schedules import constant, cosine, linear


def test_cosine_by_hand():
    factor = cosine(CosineConfig(final_fraction=0.1), warmup_steps=10, total_steps=110)
    assert factor(0) == pytest.approx(1 / 11)
    assert factor(10) == 1
    assert factor(60) == pytest.approx(0.55)
    assert factor(110) == pytest.approx(0.1)


def test_linear_by_hand():
    factor = linear(LinearConfig(), warmup_steps=0, total_steps=100)
    assert [factor(step) for step in (0, 50, 99)] == pytest.approx([1, 0.5, 0.01])


def test_constant_needs_no_end():
    factor = constant(ConstantConfig(), warmup_steps=4, total_steps=None)
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@given(
    warmup=st.integers(0, 50),
    total=st.integers(1, 200),
    final=st.floats(0, 1),
    make=st.sampled_from([linear, cosine]),
)
def test_rates_rise_then_fall_and_stay_within_the_peak(warmup, total, final, make):
    config = (LinearConfig if make is linear else CosineConfig)(final_fraction=final)
    factors = [make(config, warmup, total)(step) for step in range(total)]
    peak = factors.index(max(factors))
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert all(not math.isnan(factor) for factor in factors)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(2, 2, 3))


def test_norms_and_biases_are_not_decayed(module):
    decayed, kept = decay_groups(module, 0.1)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert sum(len(group["params"]) for group in (decayed, kept)) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (
            lambda m: adamw(AdamWConfig(learning_rate=0.01), m),
            lambda g: torch.optim.AdamW(g, lr=0.01, betas=(0.9, 0.95)),
        ),
        (
            lambda m: sgd(SGDConfig(learning_rate=0.01), m),
            lambda g: torch.optim.SGD(g, lr=0.01, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_equal_to_plain_torch(module, ours, reference):
    import copy

    other = copy.deepcopy(module)
    decay = 0.1 if "adamw" in str(ours.__code__.co_names) else 5e-4
    optimizers = [ours(module), reference(decay_groups(other, decay))]
    for step in range(3):
        for network, optimizer in zip((module, other), optimizers, strict=True):
            torch.manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=2e-7)


@pytest.mark.parametrize("make", [lambda m: adamw(AdamWConfig(), m), lambda m: sgd(SGDConfig(), m)])
def test_a_masked_first_step_changes_nothing_and_the_next_is_a_first_step(module, make):
    """torch leaves SGD's momentum uninitialised when the very first step is masked; ours exists from the start."""
    import copy

    fresh = copy.deepcopy(module)
    before = [parameter.clone() for parameter in module.parameters()]
    optimizer, plain = make(module), make(fresh)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(before, module.parameters(), strict=True))
    optimizer.found_inf = torch.zeros(())
    for network in (module, fresh):
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
    optimizer.step(), plain.step()
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), fresh.parameters(), strict=True))
