"""Schedules are pure functions of the step that rise to the peak and then fall."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.optim.config import (
    ConstantConfig,
    CosineConfig,
    DecayShape,
    LinearConfig,
    OneCycleConfig,
    WSDConfig,
)
from bigtrain.optim.schedules import constant, cosine, linear, one_cycle, wsd


def test_cosine_by_hand():
    factor = cosine(CosineConfig(final_fraction=0.1), warmup_steps=10, total_steps=110)
    assert factor(0) == pytest.approx(1 / 11)
    assert factor(10) == 1
    assert factor(60) == pytest.approx(0.55)
    assert factor(110) == pytest.approx(0.1)


def test_linear_goes_to_zero_by_default():
    factor = linear(LinearConfig(), warmup_steps=0, total_steps=100)
    assert [factor(step) for step in (0, 50, 99)] == pytest.approx([1, 0.5, 0.01])


def test_constant_needs_no_end():
    factor = constant(ConstantConfig(), warmup_steps=4, total_steps=None)
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_wsd_holds_the_peak_and_then_falls_by_hand():
    straight = wsd(WSDConfig(decay_fraction=0.4, decay_shape=DecayShape.linear), warmup_steps=1, total_steps=100)
    assert [straight(step) for step in (0, 1, 60, 80, 99, 100)] == pytest.approx([0.5, 1, 1, 0.5, 0.025, 0])
    rooted = wsd(WSDConfig(decay_fraction=0.4, final_fraction=0.2), warmup_steps=0, total_steps=100)
    assert [rooted(step) for step in (0, 60, 70, 100)] == pytest.approx([1, 1, 0.6, 0.2])


def test_wsd_decays_over_what_a_long_warmup_leaves():
    factor = wsd(WSDConfig(decay_fraction=0.9, decay_shape=DecayShape.linear), warmup_steps=50, total_steps=100)
    assert [factor(step) for step in (50, 75, 100)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(("total", "share"), [(100, 0.3), (37, 0.25), (400, 0.1)])
def test_one_cycle_is_pytorchs(total, share):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=share, cycle_momentum=False
    )
    factor = one_cycle(OneCycleConfig(warmup_fraction=share), warmup_steps=0, total_steps=total)
    for step in range(total):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        if step < total - 1:
            reference.step()


@given(
    warmup=st.integers(0, 50),
    total=st.integers(1, 200),
    final=st.floats(0, 1),
    share=st.floats(0.01, 0.99),
    shape=st.sampled_from(DecayShape),
    make=st.sampled_from([linear, cosine, wsd, one_cycle]),
)
def test_rates_rise_then_fall_and_stay_within_the_peak(warmup, total, final, share, shape, make):
    config = {
        linear: LinearConfig(final_fraction=final),
        cosine: CosineConfig(final_fraction=final),
        wsd: WSDConfig(final_fraction=final, decay_fraction=share, decay_shape=shape),
        one_cycle: OneCycleConfig(final_fraction=final, warmup_fraction=share),
    }[make]
    factors = [make(config, warmup, total)(step) for step in range(total + 3)]
    peak = factors.index(max(factors))
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert all(not math.isnan(factor) for factor in factors)
