"""Trainings in float64, as one rank of test_world_sizes.py: `float64_worker.py FOLDER STEPS`; or alone, in it."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from bigtrain.build import build_data, build_parts, build_trainer
from bigtrain.config.run import RunConfig, TrackingConfig, TrainerConfig
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.distributed.world import join_world
from bigtrain.models.config import LSTMConfig, TransformerConfig
from bigtrain.optim.config import AdamWConfig, LinearConfig
from bigtrain.signals import StopRequest
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tracking.tracker import Tracker

TOTAL_STEPS = 30
MODELS = {
    "transformer": TransformerConfig(hidden_size=16, num_layers=2, num_heads=2, max_length=32),
    "lstm": LSTMConfig(hidden_size=16, num_layers=2),  # carries its state
}


def train_all(folder, steps, world):
    """Every model in a folder of its name: goes on from the newest checkpoint there, trains to `steps`, saves, and
    appends the sample ids of its steps.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for model in MODELS:
            train(folder / model, steps, model, world)
    finally:
        torch.set_default_dtype(default)


def train(folder, steps, model, world):
    """See `train_all`."""
    config = RunConfig(
        model=MODELS[model],
        data=TextCorpusConfig(
            train_path=str(folder / "train.txt"), val_path=str(folder / "val.txt"), sequence_length=16
        ),
        task=LanguageModelingConfig(),
        optimizer=AdamWConfig(learning_rate=1e-2),
        scheduler=LinearConfig(warmup="3step"),
        tracking=TrackingConfig(samples=False),
        trainer=TrainerConfig(
            gpus="0",
            batch_size=8,
            micro_batch_size=2,
            max_duration=f"{TOTAL_STEPS}step",
            eval_every="7step",
            clip_norm=0.5,
        ),
    )
    parts = build_parts(config, build_data(config), world)
    store = CheckpointStore(folder / "checkpoints")
    if world.is_main:
        store.prepare()
    world.gather([0.0])
    trainer = build_trainer(parts, folder, Tracker([]), StopRequest(), {}, store.newest())
    trainer.length = dataclasses.replace(trainer.length, steps=steps)  # the schedule spans TOTAL_STEPS
    dataset, seen = trainer.loader.dataset, []
    trainer.loader.dataset = type(
        "Noting", (), {"gather": staticmethod(lambda ids: seen.append(ids.tolist()) or dataset.gather(ids))}
    )
    first = trainer.state.step
    trainer.fit()
    micro_batches = len(seen) // (steps - first)
    shares = [sum(seen[step * micro_batches : (step + 1) * micro_batches], []) for step in range(steps - first)]
    told = [json.loads(text) for text in _from_all(folder, world, json.dumps(shares))]
    if world.is_main:
        with (folder / "ids.jsonl").open("a") as file:
            for step in range(steps - first):
                file.write(json.dumps(sum((ranks[step] for ranks in told), [])) + "\n")


def _from_all(folder, world, text):
    """Every rank's text, on rank 0: through files, as `broadcast` tells only rank 0's."""
    (folder / f"rank-{world.rank}").write_text(text)
    world.gather([0.0])
    return [(folder / f"rank-{rank}").read_text() for rank in range(world.size)]


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0")) as its_world:
        train_all(Path(sys.argv[1]), int(sys.argv[2]), its_world)
