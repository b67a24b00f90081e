"""-m sweep=optuna: what the words ask for, and what is refused before anything starts."""

from __future__ import annotations

import json

import pytest

from bigtrain.config.library import Request
from bigtrain.errors import BigtrainError
from bigtrain.sweep.jobs import expand, validated
from bigtrain.sweep.saved import FILE, document_of
from bigtrain.sweep.search import Choices, Interval

LR = "optimizer.learning_rate=interval(1e-4,1e-2)"


def space(*words: str) -> tuple:
    return expand(Request("train", ("sweep=optuna", *words))).search.space


def refusal(*words: str) -> str:
    try:
        validated(expand(Request("train", words)))
    except BigtrainError as error:
        return str(error)
    raise AssertionError(f"{words} was accepted")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        (LR, Interval("optimizer.learning_rate", 1e-4, 1e-2, whole=False, log=True)),
        ("model.dropout=interval(0,0.5)", Interval("model.dropout", 0, 0.5, whole=False, log=False)),
        ("model.dropout=interval(0.1,0.5)", Interval("model.dropout", 0.1, 0.5, whole=False, log=False)),
        ("model.num_layers=interval(1,8)", Interval("model.num_layers", 1, 8, whole=True, log=False)),
        ("model.hidden_size=interval(16,256)", Interval("model.hidden_size", 16, 256, whole=True, log=True)),
        ("seed=tag(linear,interval(1,100))", Interval("seed", 1, 100, whole=True, log=False)),
        ("model.dropout=tag(log,interval(0.1,0.2))", Interval("model.dropout", 0.1, 0.2, whole=False, log=True)),
        ("+extra.x=tag(int,interval(1,3))", Interval("+extra.x", 1, 3, whole=True, log=False)),
        ("model.num_layers=range(1,5)", Choices("model.num_layers", ("1", "2", "3", "4"), (1, 2, 3, 4))),
        ("model=cnn,gpt2", Choices("model", ("cnn", "gpt2"))),
        ("optimizer.learning_rate=choice(1e-3,3e-3)", Choices("optimizer.learning_rate", ("1e-3", "3e-3"))),
    ],
)
def test_how_a_word_is_searched(word, found):
    assert space(word) == (found,)


def test_values_are_words_that_read_well():
    (rate,) = space(LR)
    assert (rate.word(0.00031415926), rate.word(1e-4), rate.word(1e-2)) == ("0.0003142", "0.0001", "0.01")
    (odd,) = space("model.dropout=interval(0.123456,0.123459)")
    assert 0.123456 <= float(odd.word(0.123457)) <= 0.123459, "rounding does not leave the interval"
    (dropout,) = space("model.dropout=range(0,0.3,0.1)")
    assert [dropout.word(value) for value in (0.0, 0.1, 0.2, 0.30000000000000004 - 0.1)] == ["0.0", "0.1", "0.2", "0.2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep=optuna"], "nothing to search"),
        (["sweep=optun", LR], "choices: optuna"),
        (["sweep.trials=3", LR], "add sweep=optuna"),
        (["sweep=optuna", "sweep.trails=3", LR], "did you mean sweep.trials=3"),
        (["sweep=optuna", "sweep.trials=0", LR], "sweep.trials is 0; it must be at least 1"),
        (["sweep=optuna", "sweep.trials=3,4", LR], "takes one value"),
        (["sweep=optuna", "sweep.pruner=best", LR], "allowed: median, halving, none"),
        (["sweep=optuna", "sweep.n_jobs=x", LR], "it must be a whole number"),
        (["sweep=optuna", "hydra.launcher.n_jobs=2", LR], "sweep.n_jobs=N"),
        (["sweep=optuna", "model.dropout=interval(0.5,0.1)"], "below the second"),
        (["sweep=optuna", "model.num_layers=interval(1.5,3)"], "an end of the interval is not"),
        (["sweep=optuna", "model.dropout=tag(log,interval(0,1))"], "only numbers above zero"),
        (["sweep=optuna", "model.dropout=tag(lin,interval(0,1))"], "the tag lin has no meaning"),
        (["sweep=optuna", "model.dropout=interval(0,1)"], "tried with model.dropout=1"),
        (["sweep=optuna", "model.droput=choice(0.0,0.1)"], "did you mean model.dropout"),
        (["sweep=optuna", LR, "optimizer.learning_rate=1e-3"], "is given twice"),
        (["sweep=optuna", LR, "+extra.api_key=hush"], "holds a secret"),
        (["sweep=optuna", "sweep.metric=loss", "trainer.early_stopping.metric=loss", LR], "they mean the same"),
        (["sweep=optuna", "model=transformer,cnn"], "one metric in common"),
        (["resume=latest"], "there is no sweep to go on with"),
        ([LR], "add sweep=optuna"),
    ],
)
def test_what_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(*words)


def test_a_value_is_wrong_only_where_it_goes_with_nothing():
    words = ["sweep=optuna", "model.hidden_size=choice(32,48)", "model.num_heads=choice(3,2)"]
    sweep = validated(expand(Request("train", tuple(words))))
    assert (sweep.search.metric, sweep.search.higher_is_better) == ("val/loss", False)
    assert "model.num_heads=5" in refusal(*words[:2], "model.num_heads=choice(2,5)")


def test_the_metric_decides_the_direction():
    sweep = validated(expand(Request("train", ("sweep=optuna", "model=cnn", LR))))
    assert (sweep.search.metric, sweep.search.higher_is_better) == ("val/accuracy", True)
    sweep = validated(expand(Request("train", ("sweep=optuna", "model=cnn", LR, "sweep.metric=val/loss"))))
    assert (sweep.search.metric, sweep.search.higher_is_better) == ("val/loss", False)


def test_what_is_kept_is_what_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = expand(Request("train", ("sweep=optuna", "sweep.trials=3", LR)))
    folder = tmp_path / "outputs/some/sweeps/1"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(document_of(first.request)))
    again = expand(Request("train", ("resume=latest", "sweep.trials=5")))
    assert (again.search.space, again.search.resumed) == (first.search.space, folder.relative_to(tmp_path))
    assert again.search.settings.trials == 5
    with pytest.raises(BigtrainError, match="a sweep goes on with its own words"):
        expand(Request("train", (f"resume={folder}", "seed=1")))
    (folder / FILE).write_text("{}")
    with pytest.raises(BigtrainError, match="is damaged"):
        expand(Request("train", (f"resume={folder}",)))
