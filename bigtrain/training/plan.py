"""The plan of a step: this rank's micro-batches, and what all ranks agree on before the first forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigtrain.distributed.world import World
from bigtrain.signals import reason_of
from bigtrain.tasks.base import Batch


@dataclass(frozen=True)
class StepPlan:
    """One step: the micro-batches of this rank, and beside them what is the same on every rank."""

    micro_batches: list[Batch]  # on the host
    counts: dict[str, float]  # targets per loss term over all ranks and micro-batches, at least 1
    stop_reason: str  # why to stop before this step, or ""
    train_seconds: float  # of rank 0's clock
    passes: int = 1  # micro-batches of the rank that has most: a batch of texts can be shared unequally

    @classmethod
    def agree(
        cls, world: World, micro_batches: list[Batch], counts: dict[str, float], stop_code: int, train_seconds: float
    ) -> StepPlan:
        """One collective on the host. From every rank: its own targets per loss term, the number of its micro-batches,
        its `StopRequest.code`, its clock.
        """
        rows = world.gather([*counts.values(), len(micro_batches), stop_code, train_seconds])  # (ranks, terms + 3)
        term_counts, passes, stop_codes, clocks = rows[:, :-3], rows[:, -3], rows[:, -2], rows[:, -1]
        totals = np.maximum(term_counts[:: world.tensor_parallel].sum(axis=0), 1.0)  # a group reads the same
        stop_reason = reason_of(int(stop_codes.max()))
        counts = dict(zip(counts, totals.tolist(), strict=True))
        return cls(micro_batches, counts, stop_reason, float(clocks[0]), int(passes.max()))
