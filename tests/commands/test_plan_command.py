"""`bigtrain plan`, and the refusal of what can't fit, through the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bigtrain.cli import main
from bigtrain.config.compose import Request, compose, validate
from bigtrain.planning.plan import make_plan
from bigtrain.planning.sized_data import LARGE

SMALL = ["model.hidden_size=64", "model.num_layers=6", "model.num_heads=4", "data.sequence_length=64"]


def plan_of(*words: str):
    config = validate(compose(Request("plan", list(words)))).config
    return make_plan(config, config.plan)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_is_printed_and_no_run_is_made(elsewhere, capsys):
    assert main(["plan", *SMALL, "plan.gpu=a100", "plan.gpus=4", "plan.price_per_gpu_hour=2"]) == 0
    said = capsys.readouterr().out
    for words in (
        "Parameters",
        "6 blocks",
        "activations",
        "It fits",
        "Work and time",
        "bound by",
        "kWh",
        "other numbers",
    ):
        assert words in said
    assert list(elsewhere.iterdir()) == []


def test_every_change_that_a_plan_names_fits_by_its_own_judgement(elsewhere):
    words = ["model.hidden_size=64", "model.num_layers=2", "data.sequence_length=64", "plan.gpu=l4"]
    words += ["trainer.batch_size=65536", "trainer.ema_decay=0.99"]
    plan = plan_of(*words)
    assert not plan.fits
    assert len(plan.changes) > 1
    for found in plan.changes:
        assert found.needed <= plan.available < plan.needed
    (first,) = (found for found in plan.changes if found.change.overrides[0].startswith("trainer.micro_batch_size"))
    again = plan_of(*words, *first.change.overrides)
    assert again.fits
    assert again.needed == first.needed
    assert again.largest_micro_batch == plan.largest_micro_batch == again.setup.micro_batch


def test_a_large_corpus_is_not_read(elsewhere):
    corpus = Path("corpus.txt")
    with corpus.open("wb") as file:
        file.truncate(2 * LARGE)  # no letters in it: reading it would be an error
    plan = plan_of(*SMALL, "data=text_corpus", "data.path=corpus.txt", "trainer.max_duration=1epoch")
    assert plan.steps == pytest.approx(0.9 * 2 * LARGE / 64 / plan.setup.batch, rel=1e-3)
    assert "not read" in plan.notes[0]


def test_a_batch_that_the_ranks_can_not_share_grows(elsewhere):
    plan = plan_of(*SMALL, "plan.gpu=h100", "plan.gpus=48", "trainer.batch_size=32")
    assert plan.setup.batch == 48
    assert "trainer.batch_size=48" in plan.notes[0]
    assert [cost.setup.ranks for cost, _ in plan.scaling] == [1, 2, 4, 8, 16, 48]


def test_a_model_that_counts_has_no_plan(elsewhere, capsys):
    assert main(["plan", "model=ngram"]) == 2
    assert "error[PLAN-MODEL]" in capsys.readouterr().err


def test_a_training_that_can_not_fit_is_refused_before_it_reads_its_data(elsewhere, capsys, monkeypatch):
    from bigtrain.commands import train

    monkeypatch.setattr(train, "build_data", lambda *_: pytest.fail("the data was read"))
    words = ["model.hidden_size=32768", "model.num_layers=96", "model.num_heads=256", "trainer.gpus=0"]
    assert main(words) == 5
    error = capsys.readouterr().err
    assert "error[MEMORY-MODEL]: the model has 1.24T parameters" in error
    assert list(elsewhere.iterdir()) == []


def test_a_plan_has_the_settings_of_a_training_and_its_own(elsewhere):
    composed = validate(compose(Request("plan", ["plan.gpu=mi300x", "model=cnn"])))
    assert composed.choices["data"] == "glyphs"
    assert {field.name for field in dataclasses.fields(composed.config.plan)} == {
        "gpu",
        "gpus",
        "gpus_per_node",
        "share_of_peak",
        "measure",
        "price_per_gpu_hour",
    }
