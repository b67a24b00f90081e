"""What ranks agree on at the plan of a step, from what each of them tells."""

from dataclasses import dataclass, field

import numpy as np
import torch

from bigtrain.distributed.world import World
from bigtrain.training.plan import StepPlan

from .conftest import tiny_config, with_trainer


@dataclass(frozen=True)
class WithRank0(World):
    """Rank 1 of two: rank 0 tells `first`."""

    rank: int = 1
    size: int = 2
    device: torch.device = torch.device("cpu")
    first: list = field(default_factory=list)

    def gather(self, values):
        return np.array([self.first, values], dtype=np.float64)


def test_counts_are_added_the_first_stop_code_wins_and_the_clock_is_rank_0s():
    world = WithRank0(first=[3, 0, 5, 2, 10.0])
    plan = StepPlan.agree(world, [], {"loss": 4.0, "next": 0.0}, stop_code=0, train_seconds=99.0)
    assert plan == StepPlan([], {"loss": 7.0, "next": 1.0}, "SIGTERM", 10.0, passes=5)


def test_of_several_ranks_all_decide_by_the_clock_of_rank_0(make_trainer):
    trainer = make_trainer(with_trainer(tiny_config(), max_duration="100step", save_every="50s"))
    trainer.state.step, trainer.state.train_seconds = 3, 49.0
    assert not trainer.due("save")
    trainer.world = WithRank0(first=[128, 1, 0, 51.0])
    trainer.plan_step()
    assert trainer.state.train_seconds == 49.0 and trainer.due("save")
    trainer.world = WithRank0(first=[128, 1, 0, 48.0])
    trainer.state.train_seconds = 60.0
    trainer.plan_step()
    assert not trainer.due("save")
