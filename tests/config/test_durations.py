"""Durations have a unit, or are a share of the training."""

import pytest

from bigtrain.config.durations import Duration, parse_duration
from tests.config.composing import composed, refusal


@pytest.mark.parametrize(
    ("text", "whole", "steps"),
    [
        ("10%", "1000step", 100),
        ("7%", "100step", 7),  # 0.07 x 100 is a little more than 7
        ("2.5 %", "10ksample", 8),
        ("100%", "3epoch", 96),
        ("1%", "20step", 1),
        ("0%", "20step", 0),
        ("12step", "20step", 12),
    ],
)
def test_a_share_is_of_the_training_whatever_its_unit(text, whole, steps):
    duration = parse_duration(text).of(parse_duration(whole))
    assert duration.steps(batch_size=32, epoch_samples=1024, sample_tokens=None) == steps


def test_a_share_of_a_time_is_a_time():
    assert parse_duration("10%").of(parse_duration("30min")) == Duration(180, "second")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("scheduler.warmup=0.1", "did you mean scheduler.warmup=10%"),
        ("scheduler.warmup=200", "did you mean scheduler.warmup=200step"),
        ("trainer.eval_every=0.25", "did you mean trainer.eval_every=25%"),
        ("trainer.max_duration=0.5", "did you mean trainer.max_duration=0.5epoch"),
        ("trainer.time_limit=90", "did you mean trainer.time_limit=90min"),
        ("scheduler.warmup=ten", "or 5% of the training"),
        ("scheduler.warmup=-5%", "or 5% of the training"),
        ("trainer.max_duration=10%", "it is the whole that shares are of"),
        ("trainer.time_limit=10%", "it must be a time above 0"),
        ("trainer.rank_timeout=10%", "it must be a time above 0"),
        ("trainer.eval_every=0%", "trainer.eval_every is 0%"),
    ],
)
def test_what_is_none_is_refused_with_one_that_may_have_been_meant(word, meant):
    text = refusal(word)
    assert meant in text and text.count("error[") == 1
    if "did you mean" in meant:  # what is offered is taken
        composed(meant.split()[3])


def test_a_warmup_can_not_be_a_share_of_a_time():
    text = refusal("scheduler=constant", "trainer.max_duration=30min", "scheduler.warmup=5%")
    assert "scheduler.warmup is 5% of 30min, a time, but it needs steps" in text
    composed("scheduler=constant", "trainer.max_duration=30min", "trainer.eval_every=10%", "scheduler.warmup=50step")


@pytest.mark.parametrize("key", ["trainer.max_duration", "trainer.save_every", "scheduler.warmup"])
def test_tokens_of_data_without_any_are_refused(key):
    assert f"{key} is 1Mtok, but this data has no tokens" in refusal("model=cnn", f"{key}=1Mtok")


def test_a_fraction_may_be_given_in_percent():
    assert composed("scheduler=wsd", "scheduler.decay_fraction=15%").document["scheduler"]["decay_fraction"] == 0.15
    assert composed("trainer.ema_decay=99.9%").config.trainer.ema_decay == 0.999
    assert "it must be above 0" in refusal("scheduler=wsd", "scheduler.decay_fraction=0%")
    assert "it must be a number" in refusal("scheduler=wsd", "scheduler.decay_fraction=a%")
