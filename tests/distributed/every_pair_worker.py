"""Trains every pair in float64, as one rank of test_every_pair.py: `every_pair_worker.py FOLDER`; or alone, in it."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import make_trainer, runs

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.world import join_world
from bigtrain.optim.config import SGDConfig


def train_all(folder, world):
    """Every run in a folder of its name, with `rows.json`. By SGD: Adam would not see a gradient of twice the size."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for name, run in runs().items():
            trainer = make_trainer(run, folder / name, world, SGDConfig(learning_rate=0.05), micro_batch_size=1)
            leave_batch_norm_alone(trainer.module)
            assert trainer.fit() == ""
            if world.is_main:
                (folder / name / "rows.json").write_text(json.dumps(trainer.rows))
    finally:
        torch.set_default_dtype(default)


def leave_batch_norm_alone(module):
    """Its statistics are those of a micro-batch of one rank, by its nature: here it normalises by running ones."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
            part.train = lambda mode=True, part=part: part


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0")) as its_world:
        train_all(Path(sys.argv[1]), its_world)
