"""The plan of a step: this rank's micro-batches, and what all ranks agree on before the first forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigtrain.distributed.world import World
from bigtrain.signals import reason_of
from bigtrain.tasks.base import Batch


@dataclass(frozen=True)
class RankReport:
    """What one rank knows alone at the plan of a step."""

    counts: dict[str, float]  # targets per loss term in its micro-batches
    stop_code: int  # of its `StopRequest`: 0 to go on
    train_seconds: float  # by its own clock


@dataclass(frozen=True)
class StepPlan:
    """One step of this rank, with what is the same on every rank: all fields but the micro-batches."""

    micro_batches: list[Batch]  # on the host
    counts: dict[str, float]  # targets per loss term over all ranks and micro-batches, at least 1
    stop_reason: str  # why to stop before this step, or ""
    train_seconds: float  # by rank 0's clock

    @classmethod
    def agreed(cls, micro_batches: list[Batch], report: RankReport, world: World) -> StepPlan:
        """One collective on the host: the reports of all ranks → the plan that follows from them."""
        rows = world.gather([*report.counts.values(), report.stop_code, report.train_seconds])  # (ranks, fields)
        counts, stop_codes, train_seconds = rows[:, :-2], rows[:, -2], rows[:, -1]
        totals = np.maximum(counts.sum(axis=0), 1.0).tolist()
        return cls(
            micro_batches,
            dict(zip(report.counts, totals, strict=True)),
            reason_of(int(stop_codes.max())),
            float(train_seconds[0]),
        )
