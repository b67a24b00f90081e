"""How much of the validation split an evaluation in training reads: the rule, and runs that it decides for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.commands.conclusion import best_evaluation, evaluate_best
from bigtrain.config.run import TrainerConfig
from bigtrain.config.schema import register_parts
from bigtrain.config.settings import find_problems
from bigtrain.training.validation_sample import validation_samples

from .conftest import tiny_config

register_parts()

SIZES = st.integers(1, 10_000_000)


@given(SIZES, st.floats(1, 1e9), st.none() | st.floats(1, 1e5))
def test_it_costs_a_tenth_of_the_training_between_or_what_measures_well(whole, between, tokens):
    size = validation_samples("auto", whole, between, tokens)
    assert 1 <= size <= whole
    if size < whole:
        assert size / 3 <= 0.1 * between or size <= 10_000
        assert size >= min(10_000, 320_000 / (tokens or 1))
    assert size <= max(0.3 * between, 10_000)


@given(SIZES, SIZES, st.floats(1, 1e9))
def test_a_larger_split_is_read_no_less_and_no_further(one, other, between):
    few, many = sorted((one, other))
    assert validation_samples("auto", few, between, 128) <= validation_samples("auto", many, between, 128)
    assert validation_samples("auto", 10**9, between, 128) == validation_samples("auto", 10**8, between, 128) or (
        0.3 * between > 10**8
    )


@pytest.mark.parametrize(
    ("setting", "whole", "between", "tokens", "size"),
    [
        ("auto", 39_000, 250 * 32, 128, 2_500),  # 100 MB of text, with the default batch and cadence
        ("auto", 39_000, 250 * 512, 1024, 38_400),
        ("auto", 39_000, None, 128, 2_500),  # evaluated every 10 min: only the least is known
        ("auto", 10_000, 250 * 32, None, 10_000),  # Fashion-MNIST's validation images are all read
        ("auto", 50_000, 250 * 256, None, 19_200),
        ("auto", 10_000, 250 * 32, 32, 10_000),
        ("all", 39_000, 64, 128, 39_000),
        ("100", 39_000, 64, 128, 100),
        ("100", 60, 64, 128, 60),
    ],
)
def test_sizes(setting, whole, between, tokens, size):
    assert validation_samples(setting, whole, between, tokens) == size


@pytest.mark.parametrize("value", ["auto", "all", "1", "5000"])
def test_what_is_allowed(value):
    assert find_problems(TrainerConfig(eval_samples=value)) == []


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "10%", "none", "", "True"])
def test_anything_else_is_refused(value):
    (problem,) = find_problems(TrainerConfig(eval_samples=value))
    assert problem.key == "eval_samples" and "allowed: auto, all, or a number" in problem.message


def sampled(**trainer):
    return tiny_config(trainer={"eval_samples": "9", **trainer})


def test_training_reads_the_sample_and_the_end_the_split(make_trainer):
    trainer, whole = make_trainer(sampled()), make_trainer(tiny_config(), "whole")
    trainer.fit(), whole.fit()
    sizes = trainer.evaluator.data.spec.sizes
    assert (
        trainer.evaluator.sampling() == f"in training 9 of {sizes['val']} val samples, always the same; at the end all"
    )
    assert whole.evaluator.sampling() == ""
    assert trainer.state.resolved["eval_samples"] == "9" and whole.state.resolved["eval_samples"] == str(sizes["val"])
    assert all(  # the same training
        one["train/loss"] == other["train/loss"]
        for one, other in zip(trainer.recorder.rows, whole.recorder.rows, strict=True)
        if "train/loss" in one
    )
    assert len(trainer.evaluator.dataset("val")) == 9
    assert len(trainer.evaluator.dataset("val", final=True)) == sizes["val"]
    columns = evaluate_best(trainer)
    best = best_evaluation(trainer, columns)
    assert best["sampled"] == {"metric": trainer.state.best_metric, "samples": 9}
    assert best["metric"] == columns[0].metrics["loss"] != trainer.state.best_metric
    at_end = best_evaluation(whole, evaluate_best(whole))
    assert "sampled" not in at_end and at_end["metric"] == whole.state.best_metric
    if at_end["step"] == best["step"]:
        assert at_end["metric"] == pytest.approx(best["metric"], rel=1e-12)


def test_a_resumed_run_measures_the_same_samples_whatever_its_cadence(make_trainer):
    first = make_trainer(sampled(max_duration="12step", eval_every="6step"))
    first.fit()
    rows = [row for row in first.recorder.rows if "val/loss" in row]
    again = make_trainer(tiny_config(trainer={"max_duration": "12step", "eval_every": "3step"}), resume=True)
    assert len(again.evaluator.dataset("val")) == 9
    with again.evaluated_weights():
        assert again.evaluator.evaluate("val").metrics["loss"] == rows[-1]["val/loss"]


def test_an_evaluation_that_comes_only_at_the_end_reads_the_split(make_trainer, monkeypatch):
    monkeypatch.setattr("bigtrain.training.validation_sample._LEAST_SAMPLES", 5)
    every, at_end = make_trainer(tiny_config()), make_trainer(tiny_config(trainer={"eval_every": None}), "end")
    assert len(every.evaluator.dataset("val")) == 24  # 8 samples x 10 steps x 3 / 10
    assert at_end.evaluator.sampling() == ""


def test_the_end_of_a_sampled_run_can_be_stopped_and_is_done_again(make_trainer):
    trainer = make_trainer(sampled(max_duration="12step", ema_decay=0.9))
    assert trainer.fit() == "" and trainer.stop_reason == ""
    trainer.stop._signal = "SIGTERM"
    assert evaluate_best(trainer) == [] and trainer.stop_reason == "SIGTERM"
    again = make_trainer(sampled(max_duration="12step", ema_decay=0.9), resume=True)
    assert again.fit() == "" and [column.split for column in evaluate_best(again)] == ["val", "test"]
    assert not again.recorder.rows


def test_the_end_of_a_run_that_reads_all_anyway_is_not_stopped(make_trainer):
    trainer = make_trainer(tiny_config(trainer={"max_duration": "12step"}))
    trainer.fit()
    trainer.stop._signal = "SIGTERM"
    assert len(evaluate_best(trainer)) == 2 and trainer.stop_reason == ""
