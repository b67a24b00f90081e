"""The best evaluation, early stopping, and the moving average that is evaluated."""

import json
import math
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from bigtrain.config.kinds import TaskConfig
from bigtrain.config.run import EarlyStoppingConfig, Mode
from bigtrain.data.synthetic.config import RandomLabelsConfig
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import CNNConfig
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.training.selection import Selection
from bigtrain.training.snapshot import live_tensors, load_evaluated_weights, load_matching, module_tensors
from bigtrain.training.state import TrainState

from .conftest import tiny_config, with_trainer


def stopped_at(trainer, step):
    """Trains until a signal comes during the step before `step`; why it stopped."""

    def signal_comes(now):
        if now == step - 1:
            trainer.stop._handle(signal.SIGTERM, None)
        return nullcontext()

    trainer.watch.step = signal_comes
    reason = trainer.fit()
    assert trainer.state.step == step
    return reason


def watch(values, metric="loss", watched=None, **settings):
    """Feeds evaluations; the state, and after how many it was exhausted (None: never)."""
    state = TrainState()
    task = type("Task", (TaskConfig,), {"primary_metric": metric, "higher_is_better": metric == "accuracy"})
    selection = Selection(EarlyStoppingConfig(metric=watched, **settings), task, state)
    for number, value in enumerate(values, start=1):
        selection.observe({watched or metric: value}, number)
        if selection.exhausted:
            return state, number
    return state, None


def test_the_best_is_the_smallest_loss_or_the_largest_accuracy():
    assert watch([3, 1, 2])[0].best_step == 2
    assert watch([3, 1, 2], metric="accuracy")[0].best_step == 1
    assert watch([3, 1, 2], mode=Mode.max)[0].best_step == 1
    assert watch([3, 1, 2], metric="accuracy", mode=Mode.min)[0].best_step == 2
    assert watch([3, 1, 2], metric="mse")[0].best_step == 2, "a task says itself what its own metric is"
    for metric, best in (("perplexity", 2), ("excess", 2), ("head_loss", 2), ("macro_f1", 1)):
        assert watch([3, 1, 2], watched=metric)[0].best_step == best, metric


def test_nan_and_an_equal_value_are_not_better():
    state, _ = watch([math.nan, 2, 2, math.nan])
    assert (state.best_step, state.evaluations_without_better) == (2, 2)


@pytest.mark.parametrize(
    ("values", "settings", "stops_after"),
    [
        ([3, 2, 2.5, 2.4, 1], {"patience": 2}, 4),
        ([3, 2, 2.5, 1.9, 2.5, 2.5], {"patience": 2}, 6),
        ([3, 2, 2.5, 2.4, 1], {}, None),
        # Better, but by less than min_delta each: 2.95 and 2.9 do not count, and the reference stays 3.
        ([3, 2.95, 2.9], {"patience": 2, "min_delta": 0.2}, 3),
        ([3, 2.95, 2.75], {"patience": 2, "min_delta": 0.2}, None),
    ],
)
def test_patience(values, settings, stops_after):
    assert watch(values, **settings)[1] == stops_after


def test_small_gains_still_choose_the_best_checkpoint():
    assert watch([3, 2.95, 2.9], patience=3, min_delta=0.2)[0].best_step == 3


PATIENT = with_trainer(
    tiny_config(),
    max_duration="400step",
    eval_every="5step",
    save_every=None,
    early_stopping=EarlyStoppingConfig(patience=2, min_delta=0.5),
)


def test_a_run_stops_early_and_its_best_checkpoint_is_kept(make_trainer):
    trainer = make_trainer(PATIENT)
    assert trainer.fit() == ""
    assert trainer.state.step == 15, "the first evaluation, and two that were not better by 0.5"
    assert trainer.checkpoints.newest().step == 15
    assert trainer.checkpoints.best().name == f"step-{trainer.state.best_step:08d}"
    assert any("stopped early" in note for note in trainer.recorder.notes)
    again = make_trainer(PATIENT, resume=True)
    assert again.fit() == ""
    assert again.state.step == 15, "resumed, it is still over"


def test_patience_survives_a_kill(make_trainer):
    config = with_trainer(PATIENT, save_every="6step")
    make_trainer(config, "whole").fit()
    killed = make_trainer(config, "killed")
    assert stopped_at(killed, 12) == "SIGTERM"
    resumed = make_trainer(config, "killed", resume=True)
    assert resumed.state.evaluations_without_better == 1
    resumed.fit()
    assert resumed.state.step == 15


def test_a_metric_that_the_task_lacks_is_refused_at_the_start(make_trainer):
    with pytest.raises(ConfigError) as caught:
        make_trainer(with_trainer(tiny_config(), early_stopping=EarlyStoppingConfig(metric="perplexty")))
    assert "did you mean perplexity" in str(caught.value)


AVERAGED = with_trainer(tiny_config(), ema_decay=0.9)


def test_the_average_follows_its_formula_and_is_what_is_evaluated(make_trainer):
    trainer = make_trainer(AVERAGED)
    trainer.module.train()
    live = live_tensors(trainer.module.network)
    expected = {name: value.detach().clone() for name, value in live.items()}
    for step in range(12):
        trainer.train_step(trainer.plan_step())
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * live[name].detach() for name in live}
    weights = {name: value.detach().clone() for name, value in live.items()}
    for name, value in trainer.average.tensors.items():
        torch.testing.assert_close(value, expected[name])
    plain = trainer.evaluator.evaluate("val").metrics["loss"]
    with trainer.evaluated_weights():
        averaged = trainer.evaluator.evaluate("val").metrics["loss"]
        for name, value in module_tensors(trainer.module.network).items():
            torch.testing.assert_close(value, expected[name])
    assert averaged != plain
    for name, value in module_tensors(trainer.module.network).items():
        assert torch.equal(value, weights[name]), "the weights are back"


def test_a_checkpoint_is_used_with_its_average(make_trainer):
    trainer = make_trainer(AVERAGED)
    trainer.fit()
    checkpoint = trainer.checkpoints.newest()
    averages = safetensors.torch.load_file(checkpoint.path / "ema.safetensors")
    other = make_trainer(AVERAGED, "other")
    load_evaluated_weights(other.module.network, checkpoint)
    for name, value in module_tensors(other.module.network).items():
        assert torch.equal(value, averages[name])
    row = [row for row in trainer.recorder.rows if "val/loss" in row][-1]
    assert other.evaluator.evaluate("val").metrics["loss"] == row["val/loss"]


def test_a_killed_run_goes_on_to_the_same_average(make_trainer):
    make_trainer(AVERAGED, "whole").fit()
    killed = make_trainer(AVERAGED, "killed")
    assert stopped_at(killed, 11) == "SIGTERM"
    resumed = make_trainer(AVERAGED, "killed", resume=True)
    resumed.fit()
    whole = make_trainer(AVERAGED, "whole", resume=True)
    ours, theirs = (trainer.checkpoints.newest().path / "ema.safetensors" for trainer in (resumed, whole))
    assert ours.read_bytes() == theirs.read_bytes()
    assert json.loads((ours.parent / "state.json").read_text())["best_step"] == whole.state.best_step


def test_a_masked_step_leaves_the_average(make_trainer):
    trainer = make_trainer(AVERAGED)
    trainer.module.train()
    trainer.train_step(trainer.plan_step())
    before = {name: value.clone() for name, value in trainer.average.tensors.items()}
    trainer.average.update(1, torch.ones(()))
    for name, value in trainer.average.tensors.items():
        assert torch.equal(value, before[name])


def test_finetuning_starts_from_the_average_also_with_batch_norm(make_trainer):
    """The average holds floating tensors only; what else there is comes from the weights' own file."""
    config = replace(
        AVERAGED,
        model=CNNConfig(widths=[4], hidden_size=8, batch_norm=True),
        data=RandomLabelsConfig(train_samples=40, eval_samples=20),
        task=ClassificationConfig(),
    )
    trainer = make_trainer(config)
    trainer.fit()
    checkpoint = trainer.checkpoints.newest()
    other = make_trainer(config, "other")
    sentences = load_matching(other.module.network, checkpoint)
    assert not any("starting fresh" in sentence for sentence in sentences)
    loaded = module_tensors(other.module.network)
    for name, value in trainer.average.tensors.items():
        assert torch.equal(loaded[name], value), name


def test_without_a_best_checkpoint_the_average_is_what_is_used(make_trainer):
    trainer = make_trainer(AVERAGED)
    trainer.module.train()
    trainer.train_step(trainer.plan_step())
    trainer.average.adopt()
    for name, value in module_tensors(trainer.module.network).items():
        assert torch.equal(value, trainer.average.tensors[name])
