"""Trainings in float64, a rank of test_sharded_training.py: `sharded_worker.py FOLDER STRATEGIES CASES`; or alone."""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import make_trainer, runs

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.world import join_world
from bigtrain.errors import NumericsError
from bigtrain.optim import muon
from bigtrain.optim.config import AdafactorConfig, AdamConfig, AdamWConfig, LionConfig, MuonConfig, SGDConfig

TRANSFORMER = "transformer-language_modeling-text"
RUNS = {
    "transformer": TRANSFORMER,
    "bert": "bert-masked_lm-text-next",
    "seq2seq": "seq2seq-seq2seq-pairs",
    "lstm": "lstm-language_modeling-text",
    "resnet": "resnet-classification-images",
}
# The gradient of a key's bias is zero but for rounding: divided by Adam's usual epsilon it would be 1e8 times as large.
EPSILON = 1e-6
OPTIMIZERS = {
    "adamw": AdamWConfig(learning_rate=1e-2, epsilon=EPSILON),
    "muon": MuonConfig(learning_rate=1e-2, l1=0.1, epsilon=EPSILON),
    "adafactor": AdafactorConfig(learning_rate=1e-2, clip_threshold=0.5),
    "sgd": SGDConfig(learning_rate=0.05, freeze=["backbone.blocks.0"]),
    # Its update is the sign of a mean: one whose size is that of rounding differs by twice the rate.
    "lion": LionConfig(learning_rate=1e-3),
    "adam": AdamConfig(learning_rate=1e-2, l1=0.1, epsilon=EPSILON),
}
CASES = {f"transformer-{name}": ("transformer", name) for name in OPTIMIZERS}
CASES |= {f"{model}-{name}": (model, name) for model in RUNS for name in ("adamw", "muon", "adafactor")}
NONFINITE = f"{next(iter(RUNS))}-nonfinite"
CASES |= {"lstm-lion": ("lstm", "lion"), "resnet-sgd": ("resnet", "sgd")}
QUICK = ["transformer-muon", "seq2seq-adamw", "lstm-lion", "resnet-adafactor", NONFINITE]
WIDE = [*CASES, NONFINITE]


def train_all(folder, world, strategies, names):
    """Every case under each strategy, in folders `strategy/case` with checkpoint and `rows.json`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(muon, "orthogonalization_dtype", lambda device: torch.float64):
            for strategy in strategies:
                for name in names:
                    train(folder / strategy / name, world, strategy, name)
    finally:
        torch.set_default_dtype(default)


def train(folder, world, strategy, name):
    """See `train_all`. By clipped gradients of two or more micro-batches, with a moving average."""
    model, optimizer = CASES.get(name, ("transformer", "adamw"))
    settings = {"strategy": strategy, "batch_size": 8, "micro_batch_size": 1, "clip_norm": 0.5, "ema_decay": 0.9}
    if model == "resnet":  # batch norm: the micro-batches are the same on any number of ranks
        settings |= {"batch_size": 16, "micro_batch_size": 4}
    model_config, task, spec = runs()[RUNS[model]]
    run = model_config, task, replace(spec, sizes={"train": 20, "val": 7})  # of 20, four ranks can share every batch
    trainer = make_trainer(run, folder, world, OPTIMIZERS[optimizer], **settings)
    if name == NONFINITE:
        spoil(trainer, at_step=3)
    with contextlib.suppress(NumericsError) if name == NONFINITE else contextlib.nullcontext():
        trainer.fit()
    assert trainer.state.step == (3 if name == NONFINITE else 6)
    if world.is_main:
        (folder / "rows.json").write_text(json.dumps(trainer.rows))


def spoil(trainer, at_step):
    """The loss of one sample of one step is infinite: on the last rank, or the last group of ranks."""

    def hook(module, arguments, output):
        if module.training and trainer.state.step == at_step and trainer.world.data_rank == trainer.world.data_size - 1:
            for term in output.terms.values():
                term.sum = term.sum * torch.inf

    trainer.module.register_forward_hook(hook)


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0")) as its_world:
        train_all(Path(sys.argv[1]), its_world, sys.argv[2].split(","), sys.argv[3].split(","))
