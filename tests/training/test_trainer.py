"""The loop: the loss contract, masking of bad steps, cadences, precision."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bigtrain.commands.conclusion import evaluate_best
from bigtrain.config.run import Precision, TrackingConfig
from bigtrain.errors import NumericsError
from bigtrain.models.config import TransformerConfig
from bigtrain.optim.config import ConstantConfig, MuonConfig, SGDConfig
from bigtrain.tasks.base import LossOutput, LossTerm
from bigtrain.training.recording import record
from bigtrain.training.snapshot import load_evaluated_weights, module_tensors

from .conftest import tiny_config, with_trainer

NO_DROPOUT = tiny_config(
    model=TransformerConfig(hidden_size=16, num_layers=2, num_heads=2, max_length=32),
    optimizer=SGDConfig(learning_rate=0.1),
)


def weights(trainer):
    return {name: value.clone() for name, value in module_tensors(trainer.module.network).items()}


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulating_equals_one_batch_to_rounding(make_trainer, micro_batch_size, float64):
    """Some windows score fewer targets than others, so dividing by the number of micro-batches would be wrong."""
    whole = make_trainer(NO_DROPOUT, "whole")
    parts = make_trainer(with_trainer(NO_DROPOUT, micro_batch_size=micro_batch_size), "parts")
    for trainer in (whole, parts):
        real = trainer.loader.dataset.gather

        def gather(ids, real=real):
            samples = real(ids)
            scored = samples.get("scored", torch.ones_like(samples["tokens"][:, 1:], dtype=torch.bool))
            kept = torch.arange(scored.shape[1])[None] < 1 + torch.from_numpy(ids)[:, None] % 15
            return {**samples, "scored": scored & kept}

        trainer.loader.dataset = type("Uneven", (), {"gather": staticmethod(gather)})
        trainer.fit()
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[name], rtol=0, atol=1e-12), name


def poison(trainer, step):
    """From `step` on, the loss is NaN; everything before is untouched."""
    real = trainer.module.task.compute_loss

    def compute_loss(network, batch):
        output = real(network, batch)
        if network.training and trainer.state.step == step:
            output.terms["loss"].sum = output.terms["loss"].sum * float("nan")
        return output

    trainer.module.task.compute_loss = compute_loss


@pytest.mark.parametrize("step", [0, 7, 10, 23])
def test_a_non_finite_loss_leaves_the_last_good_weights(make_trainer, step):
    good = make_trainer(tiny_config(trainer={"max_duration": "24step"}), "good")
    for _ in range(step):
        good.train_step(good.plan_step())
    trainer = make_trainer(tiny_config(), "bad")
    poison(trainer, step)
    ids = trainer.loader.ids(step)
    with pytest.raises(NumericsError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert f"at step {step}" in message
    assert ", ".join(map(str, ids)) in message
    for name, value in weights(good).items():
        assert torch.equal(value, weights(trainer)[name]), name
    saved = trainer.checkpoints.newest()
    assert saved.step == step
    load_evaluated_weights(trainer.module.network, saved)
    for name, value in weights(good).items():
        assert torch.equal(value, weights(trainer)[name]), name


def test_a_masked_step_moves_neither_momentum_nor_running_statistics(make_trainer):
    trainer = make_trainer(tiny_config(optimizer=SGDConfig()), "sgd")
    before = weights(trainer)
    poison(trainer, 0)
    trainer.train_step(trainer.plan_step())
    for parameter in trainer.parameters:
        assert not trainer.optimizer.state[parameter]["momentum_buffer"].any()
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_fp16_overflow_skips_the_update_halves_the_scale_and_moves_on(make_trainer):
    trainer = make_trainer(tiny_config(trainer={"precision": Precision.fp16}), "fp16")
    before, scale = weights(trainer), trainer.scaler.get_scale()
    trainer.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    trainer.train_step(trainer.plan_step())
    trainer.check_finite()
    assert trainer.scaler.get_scale() == scale / 2
    assert (trainer.state.step, int(trainer.updates)) == (1, 0)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_fp16_gradients_that_stay_infinite_end_the_run(make_trainer):
    """Halving the scale can't mend them; skipping forever would be silence."""
    trainer = make_trainer(tiny_config(trainer={"precision": Precision.fp16, "max_duration": "100step"}), "fp16")
    trainer.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NumericsError):
        trainer.fit()


def test_a_kill_between_saving_and_marking_the_best_is_mended_on_resume(make_trainer):
    trainer = make_trainer(tiny_config())
    trainer.fit()
    best = trainer.checkpoints.best()
    (trainer.checkpoints.root / "best").write_text("step-00000010\n")
    resumed = make_trainer(tiny_config(), resume=True)
    resumed.fit()
    assert resumed.checkpoints.best() == best


def test_rows_carry_what_a_reader_needs(make_trainer):
    trainer = make_trainer(tiny_config())
    trainer.fit()
    rows = [row for row in trainer.recorder.rows if "train/loss" in row]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    wanted = {"samples", "tokens", "time_seconds", "train/loss", "optim/learning_rate", "optim/grad_norm"}
    assert wanted | {"perf/tokens_per_second", "perf/share_of_peak", "system/memory_bytes"} <= set(rows[0])
    assert rows[-1]["samples"] == 24 * 8
    assert all(0 < row["perf/data_wait"] < 1 for row in rows)
    json.dumps(rows)


def test_other_processes_are_a_column_and_one_warning(make_trainer):
    trainer = make_trainer(tiny_config())
    columns = iter([{}, {"system/other_cpu": 0.5}, {"system/other_cpu": 0.5}])
    warnings = iter(["", "", "the cores are taken"])
    trainer.cores = SimpleNamespace(row=lambda: next(columns, {}), warning=lambda: next(warnings, ""))
    trainer.fit()
    rows = [row for row in trainer.recorder.rows if "train/loss" in row]
    assert [row.get("system/other_cpu") for row in rows[:4]] == [None, 0.5, 0.5, None]
    assert trainer.recorder.notes.count("the cores are taken") == 1


def test_the_logged_loss_is_the_mean_over_the_interval(make_trainer):
    every, fourth = (
        make_trainer(with_trainer(tiny_config(), log_every=1), "1"),
        make_trainer(tiny_config(), "4"),
    )
    every.fit(), fourth.fit()
    single = [row["train/loss"] for row in every.recorder.rows if "train/loss" in row]
    means = [row["train/loss"] for row in fourth.recorder.rows if "train/loss" in row]
    assert np.allclose(means, np.reshape(single, (-1, 4)).mean(1), rtol=1e-6)


def test_the_best_checkpoint_is_the_best_evaluation(make_trainer):
    trainer = make_trainer(with_trainer(tiny_config(), eval_every="2step", keep_last=2))
    trainer.fit()
    losses = {row["step"]: row["val/loss"] for row in trainer.recorder.rows if "val/loss" in row}
    best = min(losses, key=losses.get)
    assert trainer.checkpoints.best() == trainer.checkpoints.path_of(best)
    assert (trainer.state.best_step, trainer.state.best_metric) == (best, losses[best])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_what_the_best_weights_gave_on_validation_is_not_measured_again(make_trainer, monkeypatch, ema_decay):
    trainer = make_trainer(with_trainer(tiny_config(), ema_decay=ema_decay))
    trainer.fit()
    evaluate, splits = trainer.evaluator.evaluate, []
    monkeypatch.setattr(trainer.evaluator, "evaluate", lambda split, **k: splits.append(split) or evaluate(split, **k))
    found = evaluate_best(trainer)
    assert splits == ["test"]
    trainer.best_metrics = None  # as in a run that was resumed after it
    assert evaluate_best(trainer) == found and splits == ["test", "val", "test"]
    for file in list(trainer.checkpoints.best().iterdir()):
        file.unlink()  # no longer intact: the last weights are not those that were measured
    assert [column.weights for column in evaluate_best(trainer)] == ["last", "last"]
    assert splits[3:] == ["val", "test"]


def test_time_limits_stop_between_steps(make_trainer):
    config = with_trainer(tiny_config(), max_duration="100000step")
    trainer = make_trainer(config)
    trainer.stop._deadline = 0.0
    assert trainer.fit() == "trainer.time_limit"
    assert trainer.checkpoints.newest().step == trainer.state.step


def test_a_duration_in_time_ends_the_run(make_trainer):
    trainer = make_trainer(replace(with_trainer(tiny_config(), max_duration="0.2s"), scheduler=ConstantConfig()))
    assert trainer.fit() == ""
    assert 0.2 <= trainer.state.train_seconds < 2


def test_probe_times_and_records(make_trainer):
    trainer = make_trainer(tiny_config(trainer={"precision": Precision.probe}))
    assert trainer.precision.reason.startswith("probe: ")
    trainer.fit()
    resumed = make_trainer(tiny_config(trainer={"precision": Precision.probe}), resume=True)
    assert (resumed.precision.name, resumed.precision.reason) == (
        trainer.precision.name,
        "as the run began with",
    )


def test_auto_precision_is_a_rule_of_shapes(make_trainer):
    assert make_trainer(tiny_config()).precision.name == "fp32"


def test_a_compiler_that_is_missing_is_one_warning(make_trainer, monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        trainer = make_trainer(tiny_config(trainer={"compile": "true", "max_duration": "4step"}), "compiled")
    (note,) = [note for note in trainer.recorder.notes if "compile" in note]
    assert note.startswith("torch.compile failed")
    assert trainer.fit() == ""
    assert trainer.snapshot.manifest_facts()["resolved"]["compile"] == "off (the compiler failed)"


def test_evaluation_leaves_training_alone(make_trainer):
    """Same bytes with and without evaluations in between."""
    often = make_trainer(with_trainer(tiny_config(), eval_every="1step"), "often")
    never = make_trainer(with_trainer(tiny_config(), eval_every=None), "never")
    often.fit(), never.fit()
    assert all(torch.equal(value, weights(never)[name]) for name, value in weights(often).items())


def test_the_size_of_a_checkpoint_is_known_before_it_is_written(make_trainer):
    trainer = make_trainer(tiny_config())
    trainer.fit()
    folder = trainer.checkpoints.path_of(24)
    written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert 0.8 * written < trainer.snapshot.size_bytes() <= written


@pytest.mark.parametrize("generates", [True, False])
def test_a_model_that_generates_no_text_shows_none(make_trainer, monkeypatch, generates):
    monkeypatch.setattr(TransformerConfig, "generates", generates)
    trainer = make_trainer(replace(tiny_config(), tracking=TrackingConfig(sample_tokens=4)))
    trainer.fit()
    assert bool(trainer.recorder.texts) == generates
    assert not any("samples are switched off" in note for note in trainer.recorder.notes)


def test_each_group_keeps_its_own_rate(make_trainer):
    config = replace(tiny_config(), optimizer=MuonConfig(learning_rate=0.02, adamw_learning_rate=0.005))
    trainer = make_trainer(config)
    trainer.module.train()
    for _ in range(3):
        trainer.train_step(trainer.plan_step())
    rates = {group["name"].split("_")[0]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates["muon"] == pytest.approx(4 * rates["adamw"])
    assert 0 < rates["adamw"] < 0.005, "in warm-up"


def test_terms_have_weights_and_counts_of_their_own(make_trainer):
    trainer = make_trainer(tiny_config())
    terms = {
        "a": LossTerm(torch.tensor(6.0), torch.tensor(3), weight=2.0),
        "b": LossTerm(torch.tensor(10.0), torch.tensor(4), weight=0.5),
    }
    assert LossOutput(terms).objective({"a": 3.0, "b": 4.0}, 1) == 2 * 6 / 3 + 0.5 * 10 / 4
    trainer.loss_meter.add(terms)
    trainer.log()
    row = trainer.recorder.rows[-1]
    assert (row["train/a"], row["train/b"], row["train/loss"]) == (4.0, 1.25, 5.25)


def test_a_masked_step_leaves_the_moving_average(make_trainer):
    trainer = make_trainer(with_trainer(tiny_config(), ema_decay=0.5))
    trainer.module.train()
    for _ in range(3):
        trainer.train_step(trainer.plan_step())
    before = {name: value.clone() for name, value in trainer.average.tensors.items()}
    poison(trainer, 3)
    trainer.train_step(trainer.plan_step())
    for name, value in trainer.average.tensors.items():
        assert torch.equal(value, before[name]), name


def test_a_sample_of_the_training_split_is_measured_like_validation(make_trainer):
    """Without dropout: the last row is what an evaluation of those samples gives, and training is not disturbed."""
    trainer, without = (
        make_trainer(tiny_config()),
        make_trainer(with_trainer(tiny_config(), eval_train=False), "without"),
    )
    trainer.fit(), without.fit()
    rows = [row for row in trainer.recorder.rows if "val/loss" in row]
    assert all({"train_eval/loss", "train_eval/perplexity"} <= set(row) for row in rows)
    with trainer.evaluated_weights():
        again = trainer.evaluator.evaluate("train_eval").metrics["loss"]
    assert again == rows[-1]["train_eval/loss"]
    assert not any("train_eval/loss" in row for row in without.recorder.rows)
    assert all(torch.equal(value, weights(without)[name]) for name, value in weights(trainer).items())


def test_where_validation_is_training_no_sample_is_measured(make_trainer):
    trainer = make_trainer(with_trainer(tiny_config(), overfit=True))
    assert not trainer.evaluator.has("train_eval")


@pytest.mark.parametrize("kind", ["plain", "ema", "muon", "accumulated"])
def test_a_recorded_step_is_the_eager_one(make_trainer, kind, float64):
    """On a CPU a recorded step runs what a GPU would replay: its inputs are tensors, and no number is read back.

    Learning rates that fp32 holds exactly: the same bits. Muon's are multiplied by a factor first, and rounded.
    """
    plain = replace(NO_DROPOUT, optimizer=SGDConfig(learning_rate=0.125), scheduler=ConstantConfig())
    config = {
        "plain": plain,
        "ema": with_trainer(plain, ema_decay=0.9),
        "muon": with_trainer(replace(plain, optimizer=MuonConfig()), max_duration="1step"),
        "accumulated": with_trainer(plain, micro_batch_size=2),
    }[kind]
    eager, recorded = make_trainer(config, "eager"), make_trainer(config, "recorded")
    before = weights(recorded)
    record(recorded, recorded.plan_step())
    assert all(torch.equal(value, before[name]) for name, value in weights(recorded).items()), "nothing is trained yet"
    eager.fit(), recorded.fit()
    if kind == "muon":
        assert all(torch.allclose(value, weights(recorded)[name], atol=1e-8) for name, value in weights(eager).items())
        return
    assert all(torch.equal(value, weights(recorded)[name]) for name, value in weights(eager).items())
    if kind == "ema":
        assert all(torch.equal(value, recorded.average.tensors[name]) for name, value in eager.average.tensors.items())
    losses = [[row["train/loss"] for row in run.recorder.rows if "train/loss" in row] for run in (eager, recorded)]
    assert losses[0] == losses[1]


def test_a_step_of_another_shape_is_not_replayed(make_trainer):
    """As with a batch that has padding where the recorded one had none."""
    trainer = make_trainer(with_trainer(NO_DROPOUT, max_duration="4step"))
    record(trainer, trainer.plan_step())
    plan = trainer.plan_step()
    short = [{name: value[:, :8] for name, value in batch.items()} for batch in plan.micro_batches]
    assert trainer.recorded.fits(trainer.inputs(plan))
    assert not trainer.recorded.fits(trainer.inputs(replace(plan, micro_batches=short)))
    assert trainer.fit() == ""
