"""Settings that ask for more than the training is long: refused where they were typed, told of where it matters."""

from dataclasses import replace

import pytest

from bigtrain.config.compose import compose, validate
from bigtrain.config.contradictions import find_contradictions, told_of
from bigtrain.config.durations import parse_duration
from bigtrain.config.library import Request
from bigtrain.errors import ConfigError
from bigtrain.training.cadence import WorkUnits
from tests.config.composing import composed, refusal

REFUSED = {
    ("trainer.max_duration=20step", "scheduler.warmup=50step"): "the learning rate would rise to 40% of its peak",
    ("scheduler.warmup=2000step",): "longer than the training (trainer.max_duration is 1000step)",
    ("scheduler.warmup=101%",): "scheduler.warmup is 101%, longer than the training",
    ("trainer.max_duration=2epoch", "scheduler.warmup=3epoch"): "would rise to 67% of its peak",
    ("trainer.max_duration=20step", "trainer.early_stopping.patience=3"): "never over before the training is",
    ("trainer.early_stopping.patience=10", "trainer.eval_every=10%"): "trainer.eval_every=5%",
    ("scheduler=wsd", "scheduler.warmup=40%", "scheduler.decay_fraction=0.7"): "leaves only 60% of the training",
}
FINE = [
    ("trainer.max_duration=20step",),
    ("trainer.max_duration=20step", "scheduler.warmup=20step"),
    ("trainer.max_duration=20step", "trainer.save_every=100step"),
    ("trainer.early_stopping.patience=3",),
    ("scheduler=wsd", "scheduler.warmup=90%"),
    ("scheduler=one_cycle", "trainer.max_duration=2step"),
    ("experiment=shakespeare", "data.path=x", "trainer.max_duration=2step"),
    ("scheduler.warmup=3epoch",),  # how many steps that are, the data says
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_was_typed_is_refused(words):
    assert REFUSED[words] in refusal(*words)


@pytest.mark.parametrize("words", FINE, ids=" ".join)
def test_a_short_run_never_fails_for_what_nobody_typed(words):
    composed(*words)


def told(config, typed=()):
    units = WorkUnits(10, 1000, None, parse_duration(config.trainer.max_duration))
    return told_of(find_contradictions(config, units.length), frozenset(typed))


def test_with_the_size_of_the_data_other_units_are_compared_too():
    (sentence,) = told(composed("trainer.max_duration=20step", "scheduler.warmup=3epoch").config)
    assert "scheduler.warmup is 3epoch" in sentence and "7% of its peak" in sentence
    assert told(composed("trainer.max_duration=400step", "scheduler.warmup=3epoch").config) == []


def test_a_warmup_of_an_experiment_is_told_of_and_cadences_only_where_typed():
    config = composed("experiment=shakespeare", "data.path=x", "trainer.max_duration=5step").config
    (sentence,) = told(config)
    assert "scheduler.warmup is 20step" in sentence and "scheduler.warmup=5%" in sentence
    config = composed("trainer.max_duration=20step").config
    assert told(config) == []
    (sentence,) = told(config, ["trainer.save_every"])
    assert (
        sentence
        == "trainer.save_every is 250step, longer than the training (20step); a checkpoint is written only at its end"
    )


def test_words_of_a_pipelines_file_were_typed_by_nobody():
    words = ("scheduler.warmup=40step", "trainer.max_duration=20step")
    request = Request("train", words)
    with pytest.raises(ConfigError, match="longer than the training"):
        validate(compose(request))
    found = validate(compose(replace(request, from_file=frozenset(words[:1]))))
    assert found.asked == {"trainer.max_duration"} and "scheduler.warmup" in found.typed
