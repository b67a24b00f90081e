"""One leg of a training that goes on with other ranks, in float64: `walk_worker.py FOLDER STEPS STRATEGY`; or alone."""

import dataclasses
import sys
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import make_trainer, runs

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.world import join_world
from bigtrain.optim import muon
from bigtrain.optim.config import AdamWConfig, MuonConfig

RUNS = {
    "muon": ("transformer-language_modeling-text", MuonConfig(learning_rate=1e-2, epsilon=1e-6)),
    "lstm": ("lstm-language_modeling-text", AdamWConfig(learning_rate=1e-2, epsilon=1e-6)),  # carries its state
}
SETTINGS = {"batch_size": 8, "micro_batch_size": 1, "clip_norm": 0.5, "ema_decay": 0.9, "keep_last": 9}


def go_on(folder, steps, strategy, world):
    """Every run in a folder of its name, from its newest checkpoint to a number of steps, and a checkpoint there."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(muon, "orthogonalization_dtype", lambda device: torch.float64):
            for name, (run, optimizer) in RUNS.items():
                model, task, spec = runs()[run]
                run = model, task, dataclasses.replace(spec, sizes={"train": 20, "val": 7})
                trainer = make_trainer(run, folder / name, world, optimizer, resume=True, strategy=strategy, **SETTINGS)
                trainer.length = dataclasses.replace(trainer.length, steps=steps)
                trainer.fit()
                world.gather([0.0])
    finally:
        torch.set_default_dtype(default)


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0")) as its_world:
        go_on(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], its_world)
