"""Positions: RoPE depends on distances only; tables start where they are told to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import drawn

from bigtrain.nn.positional import LearnedPositions, RotaryPositions, SinusoidalPositions, rotate


@pytest.fixture(autouse=True)
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@settings(max_examples=30, deadline=None)
@given(query=st.integers(0, 40), key=st.integers(0, 40), shift=st.integers(0, 40))
def test_rope_scores_depend_on_the_distance_only(query, key, shift):
    torch.set_default_dtype(torch.float64)
    rotary = RotaryPositions(128, 8, base=100.0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(1))

    def score(at_query, at_key):
        return (rotate(q, rotary(at_query, 1)) * rotate(k, rotary(at_key, 1))).sum()

    torch.testing.assert_close(score(query, key), score(query + shift, key + shift), rtol=1e-10, atol=1e-10)


def test_rope_turns_each_pair_by_position_times_frequency():
    rotary = RotaryPositions(8, 4, base=100.0)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)  # both pairs point along their first feature
    turned = rotate(x, rotary(3, 1)).flatten()
    angles = torch.tensor([3.0, 3.0 / 10])
    torch.testing.assert_close(turned, torch.cat((angles.cos(), angles.sin())), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", [lambda: LearnedPositions(16, 6, std=1.0), lambda: SinusoidalPositions(16, 6)])
def test_added_positions_begin_at_start(positions):
    module, x = drawn(positions()), torch.randn(2, 10, 6)
    torch.testing.assert_close(module(x, 0)[:, 4:], module(x[:, 4:], 4), rtol=0, atol=0)


def test_sinusoidal_table_is_the_papers():
    table = SinusoidalPositions(5, 4).table_TD
    expected = torch.tensor([2.0]).sin().item(), torch.tensor([2.0 / 100]).cos().item()
    assert (table[2, 0].item(), table[2, 3].item()) == pytest.approx(expected, abs=1e-12)


def test_only_learned_positions_are_stored():
    assert RotaryPositions(8, 4, base=10.0).state_dict() == {}
    assert SinusoidalPositions(8, 4).state_dict() == {}
    assert list(LearnedPositions(8, 4, std=1.0).state_dict()) == ["embedding.weight"]
