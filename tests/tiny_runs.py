"""Trainings of a few steps for every pair of `tiny_networks.serving`, wired as the command wires them."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_networks import TASK_SETTINGS, Memory, serving, tiny_config

from bigtrain.build import build_parts, build_trainer
from bigtrain.config.kinds import DataConfig
from bigtrain.config.run import Precision, RunConfig, TrackingConfig, TrainerConfig
from bigtrain.data.base import DataModule
from bigtrain.optim.config import ConstantConfig
from bigtrain.signals import StopRequest
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.tasks.config import MaskedLanguageModelingConfig
from bigtrain.tracking.tracker import Tracker

STEPS = 6
SIZES = {"train": 18, "val": 7}


def runs():
    """Name → (settings of a model, settings of a task, spec): every pair, and what has two losses."""
    found = {}
    for model, task, spec in serving():
        settings = task.config_class(**TASK_SETTINGS.get(task.config_class, {}))
        name, spec = f"{model.name}-{task.name}-{spec.kind}", replace(spec, sizes=SIZES)
        found[name] = (tiny_config(model.config_class), settings, spec)
        if isinstance(settings, MaskedLanguageModelingConfig) and spec.kind == "text":
            found[f"{name}-next"] = (tiny_config(model.config_class), replace(settings, next_sentence=True), spec)
    return found


class Rows:
    """A sink that remembers the rows."""

    def __init__(self):
        self.rows = []

    def scalars(self, row):
        self.rows.append(row)

    def __getattr__(self, name):
        return lambda *arguments: None


class TinyData(DataModule):
    """A data module whose samples lie in memory. Windows of text follow each other, and some score fewer targets."""

    def __init__(self, spec):
        self.spec = spec

    def dataset(self, split):
        """See `data/base.py`."""
        samples = _Split(self.spec, self.spec.sizes[split], seed=len(split))
        samples.contiguous = self.spec.kind == "text"
        return samples


class _Split(Memory):
    def gather(self, ids):
        samples = super().gather(ids)
        if self.spec.kind == "text":
            kept_B = 2 + torch.from_numpy(ids) % self.spec.sequence_length
            samples["scored"] = torch.arange(self.spec.sequence_length) < kept_B[:, None]
        return samples


def _in_default_dtype(module, arguments):
    """Tasks hand on fp32; a network in float64 reads float64."""
    dtype = torch.get_default_dtype()
    return ({name: x.to(dtype) if x.is_floating_point() else x for name, x in arguments[0].items()},)


def make_trainer(run, run_dir, world, optimizer, resume=False, seed=0, **trainer):
    """A Trainer of `STEPS` steps, ready to fit, its rows in `.rows`; with `resume` from the newest checkpoint."""
    model, task, spec = run
    settings = {"gpus": "0", "batch_size": 4, "max_duration": f"{STEPS}step", "precision": Precision.fp32}
    config = RunConfig(
        seed=seed,
        model=model,
        data=DataConfig(),
        task=task,
        optimizer=optimizer,
        scheduler=ConstantConfig(warmup="2step"),
        tracking=TrackingConfig(samples=False),
        trainer=TrainerConfig(**{**settings, "log_every": 4, "eval_every": "4step", "clip_norm": None, **trainer}),
    )
    store, sink = CheckpointStore(run_dir / "checkpoints"), Rows()
    if world.is_main:
        store.prepare()
    parts = build_parts(config, TinyData(spec), world)
    parts.module.register_forward_pre_hook(_in_default_dtype)
    checkpoint = store.newest() if resume else None
    trainer = build_trainer(parts, run_dir, Tracker([sink]), StopRequest(), {}, checkpoint)
    trainer.rows = sink.rows
    return trainer
