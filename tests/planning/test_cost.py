"""Time, communication and bounds of a step, by hand."""

from __future__ import annotations

import pytest

from bigtrain.planning.config import ACCELERATORS
from bigtrain.planning.cost import Work, counts_up_to, sent_bytes, step_cost
from bigtrain.planning.setup import Setup

WORK = Work(1e12, 1e9, 4 * 10**9, 1e15, 0.5, ACCELERATORS["h100"])  # 1G parameters


def test_ddp_averages_gradients_once_a_step():
    assert sent_bytes(WORK, Setup(8, 64, 1, "bf16")) == (2 * 7 / 8 * 4e9, 0.0)
    assert sent_bytes(WORK, Setup(16, 64, 1, "bf16")) == (0.0, 2 * 15 / 16 * 4e9)
    assert sent_bytes(WORK, Setup(1, 64, 1)) == (0.0, 0.0)


def test_fsdp_gathers_twice_and_scatters_once_for_each_micro_batch():
    setup = Setup(8, 64, 4, "bf16", "fsdp")
    assert setup.passes == 2
    assert sent_bytes(WORK, setup)[0] == pytest.approx(2 * 7 / 8 * (2 * 2e9 + 4e9))


def test_hsdp_averages_a_part_over_nodes():
    inside, outside = sent_bytes(WORK, Setup(16, 16, 1, "bf16", "hsdp"))
    assert inside == pytest.approx(7 / 8 * 8e9)
    assert outside == pytest.approx(2 * 1 / 2 * 4e9 / 8)


def test_a_step_takes_the_longest_of_its_bounds():
    cost = step_cost(WORK, Setup(1, 64, 1))
    assert cost.compute == pytest.approx(64 * 1e12 / 0.5e15)
    assert (cost.seconds, cost.bound) == (cost.compute, "compute")
    far = step_cost(WORK, Setup(64, 64, 1, "bf16"))
    assert far.bound == "network"
    assert far.seconds == pytest.approx(2 * 63 / 64 * 4e9 / 50e9)
    assert step_cost(WORK, Setup(1, 64, 1, checkpointing="full")).compute == pytest.approx(cost.compute * 4 / 3)


def test_numbers_of_gpus_double_up_to_the_planned_one():
    assert counts_up_to(1) == [1]
    assert counts_up_to(8) == [1, 2, 4, 8]
    assert counts_up_to(12) == [1, 2, 4, 8, 12]
