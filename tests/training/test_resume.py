"""Killed anywhere and run again, a run ends with the same bytes as one that was never stopped."""

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bigtrain.config.run import EarlyStoppingConfig, Precision
from bigtrain.config.schema import register_parts
from bigtrain.data.mixture.config import MixtureConfig, SourceConfig
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.errors import CheckpointError
from bigtrain.models.config import LSTMConfig, TransformerConfig
from bigtrain.optim.config import AdamWConfig, MuonConfig, SGDConfig
from bigtrain.registry import OPTIMIZERS, SCHEDULERS
from bigtrain.storage.run_directory import require_run_directory
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.training.trainer import Trainer

from .conftest import tiny_config

register_parts()
CONFIGS = {
    "adamw": tiny_config(),
    # Every optimizer and every schedule there is, with what else has state: a moving average, patience, smoothing.
    **{f"optimizer {entry.name}": tiny_config(optimizer=entry.config_class()) for entry in OPTIMIZERS},
    **{f"scheduler {entry.name}": tiny_config(scheduler=entry.config_class()) for entry in SCHEDULERS},
    "frozen": tiny_config(optimizer=MuonConfig(freeze=["backbone.blocks.0.*"], no_decay=["*attention*"])),
    "layer decay": tiny_config(optimizer=AdamWConfig(layer_decay=0.7)),
    "scaled": tiny_config(optimizer=MuonConfig(learning_rate_scale={"heads": 3.0, "*.blocks.0": 0.5})),
    "l1": tiny_config(optimizer=SGDConfig(l1=1e-3, no_decay=["heads"])),
    "averaged": tiny_config(trainer={"ema_decay": 0.9, "early_stopping": EarlyStoppingConfig(patience=5)}),
    "smoothed": tiny_config(task=LanguageModelingConfig(label_smoothing=0.1)),
    "accumulating": tiny_config(trainer={"micro_batch_size": 2}),
    "bf16": tiny_config(trainer={"precision": Precision.bf16}),
    "fp16": tiny_config(trainer={"precision": Precision.fp16}),
    "epochs_of_odd_size": tiny_config(
        data=MarkovConfig(vocab_size=5, order=2, sequence_length=16, train_tokens=330, eval_tokens=200)
    ),
    # This very file in windows: 24 steps are more than an epoch.
    "carried state": tiny_config(
        model=LSTMConfig(hidden_size=8, num_layers=2, dropout=0.2, variational_dropout=True),
        data=TextCorpusConfig(path=__file__, sequence_length=64),
    ),
    "mixture": tiny_config(
        data=MixtureConfig(
            sources={"code": SourceConfig(path=__file__), "tests": SourceConfig(path=f"{Path(__file__).parent}/*.py")},
            sequence_length=32,
            attend_across_documents=False,
        )
    ),
    "tied": tiny_config(
        model=TransformerConfig(
            hidden_size=16, num_layers=1, num_heads=2, max_length=32, dropout=0.2, tie_embeddings=True
        )
    ),
}


def final_bytes(trainer):
    path = trainer.checkpoints.path_of(24)
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


def stop_in_step(monkeypatch, step):
    """A real SIGTERM while step `step` is being computed."""
    real = Trainer.update

    def update(self, number, loss):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, number, loss)

    monkeypatch.setattr(Trainer, "update", update)


@pytest.mark.parametrize("name", CONFIGS)
def test_stopped_at_random_steps_the_bytes_are_the_same(make_trainer, name, monkeypatch):
    config = CONFIGS[name]
    whole = make_trainer(config, "whole")
    assert whole.fit() == ""
    stops = sorted(random.Random(name).sample(range(23), 3))
    for number, step in enumerate(stops):
        with monkeypatch.context() as patch:
            stop_in_step(patch, step)
            trainer = make_trainer(config, "stopped", resume=number > 0)
            with trainer.stop:
                assert trainer.fit() == "SIGTERM"
            assert trainer.state.step == step + 1
    resumed = make_trainer(config, "stopped", resume=True)
    assert resumed.state.step == stops[-1] + 1
    assert resumed.fit() == ""
    assert final_bytes(resumed) == final_bytes(whole)


def test_stopped_inside_an_evaluation_it_is_done_again(make_trainer):
    config = CONFIGS["adamw"]
    whole = make_trainer(config, "whole")
    whole.fit()
    trainer = make_trainer(config, "stopped")
    real = trainer.evaluator._batches_of

    def batches(dataset):
        for number, batch in enumerate(real(dataset)):
            if number == 0 and trainer.state.step == 10:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    trainer.evaluator._batches_of = batches
    with trainer.stop:
        assert trainer.fit() == "SIGTERM"
    assert trainer.state.step == 10
    assert not any("val/loss" in row for row in trainer.recorder.rows)

    resumed = make_trainer(config, "stopped", resume=True)
    assert resumed.fit() == ""
    evaluated = [row["step"] for row in resumed.recorder.rows if "val/loss" in row]
    assert evaluated == [10, 20, 24]
    assert final_bytes(resumed) == final_bytes(whole)


def test_stopped_inside_the_last_evaluation_the_run_is_not_finished(make_trainer):
    trainer = make_trainer(CONFIGS["adamw"])
    real = trainer.evaluator._batches_of

    def batches(dataset):
        for batch in real(dataset):
            if trainer.state.step == 24:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    trainer.evaluator._batches_of = batches
    with trainer.stop:
        assert trainer.fit() == "SIGTERM"
    resumed = make_trainer(CONFIGS["adamw"], resume=True)
    assert resumed.fit() == ""
    assert [row["step"] for row in resumed.recorder.rows if "val/loss" in row] == [24]


def test_a_checkpoint_of_an_earlier_step_replays_the_same_rows(make_trainer):
    config = CONFIGS["adamw"]
    whole = make_trainer(config)
    whole.fit()
    for step in (step for step in whole.checkpoints.steps() if step > 10):
        whole.checkpoints.path_of(step).rename(whole.checkpoints.root.parent / f"gone-{step}")
    replayed = make_trainer(config, resume=True)
    assert replayed.state.step == 10
    replayed.fit()

    def losses(trainer):
        return {row["step"]: row["train/loss"] for row in trainer.recorder.rows if "train/loss" in row}

    assert len(losses(replayed)) == 4
    assert losses(replayed).items() <= losses(whole).items()


def test_another_seed_gives_other_bytes(make_trainer):
    """The comparison above can fail."""
    one = make_trainer(CONFIGS["adamw"], "one")
    other = make_trainer(replace(CONFIGS["adamw"], seed=1), "other")
    one.fit(), other.fit()
    assert final_bytes(one) != final_bytes(other)


def test_a_checkpoint_of_a_run_is_not_the_run_but_names_it(tmp_path):
    run = tmp_path / "name" / "2026-01-01_00-00-00-0000"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "status.json"):
        (run / name).touch()
    with pytest.raises(CheckpointError, match=f"resume={run};"):
        require_run_directory(str(run / "checkpoints" / "best"), tmp_path)
