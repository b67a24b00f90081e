"""Runs built straight from settings, small enough for a second."""

from dataclasses import replace

import pytest
import torch

from bigtrain.build import build_data, build_parts, build_trainer
from bigtrain.config.run import RunConfig, TrackingConfig, TrainerConfig
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.distributed.world import World
from bigtrain.models.config import TransformerConfig
from bigtrain.optim.config import AdamWConfig, CosineConfig
from bigtrain.signals import StopRequest
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tracking.tracker import Tracker


class Recorder:
    """A sink that remembers."""

    def __init__(self):
        self.rows, self.notes, self.texts = [], [], []

    def scalars(self, row):
        self.rows.append(row)

    def note(self, sentence, warning=False):
        self.notes.append(sentence)

    def text(self, tag, text, step):
        self.texts.append((tag, text, step))

    def __getattr__(self, name):
        return lambda *arguments: None


def tiny_config(**changes):
    trainer = {
        "batch_size": 8,
        "max_duration": "24step",
        "eval_every": "10step",
        "save_every": "6step",
        "log_every": 4,
        "keep_last": 100,
        "gpus": "0",
    }
    nodes = {
        "model": TransformerConfig(hidden_size=16, num_layers=2, num_heads=2, max_length=32, dropout=0.2),
        "data": MarkovConfig(vocab_size=5, order=1, sequence_length=16, train_tokens=1_000, eval_tokens=400),
        "task": LanguageModelingConfig(),
        "optimizer": AdamWConfig(learning_rate=3e-3),
        "scheduler": CosineConfig(warmup="4step"),
        "tracking": TrackingConfig(samples=False),
    }
    trainer |= changes.pop("trainer", {})
    return RunConfig(**{**nodes, **changes, "trainer": TrainerConfig(**trainer)})


@pytest.fixture
def make_trainer(tmp_path):
    """make_trainer(config, run="a", resume=False) -> Trainer, ready to fit."""

    def make(config, run="run", resume=False):
        world = World(0, 1, torch.device("cpu"))
        recorder = Recorder()
        parts = build_parts(config, build_data(config), world)
        run_dir = tmp_path / run
        from bigtrain.storage.checkpoint import CheckpointStore

        store = CheckpointStore(run_dir / "checkpoints", config.trainer.keep_last)
        store.prepare()
        checkpoint = store.newest() if resume else None
        document = {"trainer": {"max_duration": config.trainer.max_duration}}
        trainer = build_trainer(parts, run_dir, Tracker([recorder]), StopRequest(), document, checkpoint)
        trainer.recorder = recorder
        return trainer

    return make


def with_trainer(config, **changes):
    return replace(config, trainer=replace(config.trainer, **changes))
