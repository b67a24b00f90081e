"""The cheapest changes: arithmetic on bytes alone, and none that could be left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.planning.changes import (
    ACTIVATIONS,
    AVERAGE,
    GRADIENTS,
    LOSS,
    OPTIMIZER,
    WEIGHTS,
    Situation,
    cheapest_changes,
    of_setup,
    per_rank,
)
from bigtrain.planning.setup import Setup

GIB = 1 << 30
PARTS = {WEIGHTS: 4 * GIB, GRADIENTS: 4 * GIB, OPTIMIZER: 8 * GIB, ACTIVATIONS: 32 * GIB, LOSS: GIB}
SITUATION = Situation(
    Setup(1, 64, 16, "bf16"), PARTS, 40 * GIB, 24, 0.9, (int(1.3 * GIB), GIB // 16), has_gpu=True, optimizer="adamw"
)


def words(situation, limit=9):
    return [" ".join(change.overrides) for change in cheapest_changes(situation, limit)]


def test_the_largest_smaller_micro_batch_comes_first():
    assert words(SITUATION)[0] == "trainer.micro_batch_size=8"


def test_without_activations_only_state_can_shrink():
    state = {part: size for part, size in PARTS.items() if part in (WEIGHTS, GRADIENTS, OPTIMIZER)}
    found = words(replace(SITUATION, parts=state, available=13 * GIB))
    assert found == ["trainer.strategy=fsdp trainer.gpus=2", "optimizer=lion"] or found[-1] == "optimizer=lion"
    assert all("micro" not in word and "checkpointing" not in word for word in found)


def test_what_learns_otherwise_comes_last():
    found = cheapest_changes(replace(SITUATION, parts=PARTS | {AVERAGE: 4 * GIB}, available=50 * GIB), limit=9)
    learning = [change.learning for change in found]
    assert learning == sorted(learning) and len(set(learning)) == 2
    assert any("trainer.ema_decay=null" in change.overrides for change in found)


def test_on_a_cpu_ranks_share_memory_and_nothing_is_split():
    found = words(replace(SITUATION, has_gpu=False, available=12 * GIB))
    assert all("fsdp" not in word for word in found)


def test_nothing_helps_where_the_weights_alone_are_too_much():
    assert cheapest_changes(replace(SITUATION, has_gpu=False, available=GIB)) == []


@given(
    available=st.integers(1, 60),
    micro=st.sampled_from([1, 2, 4, 16]),
    has_gpu=st.booleans(),
    known=st.booleans(),
    activations=st.integers(0, 64),
)
def test_each_change_fits_and_none_of_its_kinds_can_be_left_out(available, micro, has_gpu, known, activations):
    parts = PARTS | {ACTIVATIONS: activations * GIB}
    kept = (activations * GIB // 26, activations * GIB // 500) if known else (0, 0)
    situation = replace(
        SITUATION,
        setup=replace(SITUATION.setup, micro_batch=micro),
        parts=parts,
        available=available * GIB,
        has_gpu=has_gpu,
        block_bytes=kept,
    )
    changes = cheapest_changes(situation, limit=99)
    for change in changes:
        assert situation.needed - change.saves <= situation.available
        others = {tuple(other.overrides) for other in changes if other is not change}
        assert not any(set(other) < set(change.overrides) for other in others)
        if not change.optimizer and change.average:
            again = parts | of_setup(situation, change.setup)
            assert sum(per_rank(again, change.setup, 24, 0.9).values()) <= situation.available
    assert changes == sorted(changes, key=lambda change: change.cost)


@pytest.mark.parametrize(
    ("ranks", "strategy", "shards"), [(1, "ddp", 1), (16, "ddp", 1), (16, "fsdp", 16), (16, "hsdp", 8)]
)
def test_who_holds_a_copy_together(ranks, strategy, shards):
    assert Setup(ranks, 64, 1, strategy=strategy).shards == shards
