"""A training that is made longer goes on as if it had been planned so, or lays its learning rate out again; exactly."""

from dataclasses import replace

import pytest

from bigtrain.config.durations import parse_duration
from bigtrain.optim.config import ConstantConfig, CosineConfig, DecayShape, LinearConfig, OneCycleConfig, WSDConfig
from bigtrain.optim.schedules import constant, cosine, linear, one_cycle, wsd
from bigtrain.training.cadence import WorkUnits
from bigtrain.training.extension import lay_out, rate_ahead

from .conftest import tiny_config, with_trainer
from .test_resume import stop_in_step

FACTORIES = {
    ConstantConfig: constant,
    CosineConfig: cosine,
    LinearConfig: linear,
    OneCycleConfig: one_cycle,
    WSDConfig: wsd,
}


def factors(config, total, lengths=()):
    units = WorkUnits(8, 800, None, parse_duration(f"{total}step"))
    schedule = lay_out(FACTORIES[type(config)], config, units, total, [list(length) for length in lengths])
    return [schedule(step) for step in range(total)]


@pytest.mark.parametrize("config", [ConstantConfig(warmup="5step"), WSDConfig(warmup="5step", decay_fraction=0.25)])
def test_where_the_rate_does_not_depend_on_the_end_it_is_as_planned(config):
    assert factors(config, 200, [(60, 80), (110, 150)]) == factors(config, 200)


@pytest.mark.parametrize("config", [CosineConfig(warmup="5step"), LinearConfig(), OneCycleConfig()])
def test_else_it_rises_to_the_peak_again_and_falls_once_more(config):
    extended, planned = factors(config, 200, [(100, 100)]), factors(config, 100)
    assert extended[:100] == planned
    top = extended.index(max(extended[100:]), 100)
    assert extended[top] == pytest.approx(1, abs=0.01)
    assert extended[100:top] == sorted(extended[100:top])
    assert extended[top:] == sorted(extended[top:], reverse=True)
    assert extended[-1] == pytest.approx(planned[-1], abs=0.05)


def test_a_rate_that_had_not_fallen_far_is_not_thrown_back():
    config = LinearConfig(warmup="40step")
    extended = factors(config, 300, [(60, 100)])
    before = factors(config, 100)[59]
    assert extended[60] == before and min(extended[60:120]) == before


@pytest.mark.parametrize("added", [1, 2, 3])
def test_a_few_added_steps_are_enough(added):
    assert all(0 < factor <= 1 for factor in factors(CosineConfig(warmup="30step"), 100 + added, [(100, 100)]))


def test_a_warmup_that_is_a_share_keeps_the_length_that_it_had():
    config = ConstantConfig(warmup="10%")
    assert factors(config, 200, [(15, 100)]) == factors(ConstantConfig(warmup="10step"), 200)


def test_what_the_rate_does_is_said():
    schedule = cosine(CosineConfig(final_fraction=0.1), 4, 100)
    said = rate_ahead(schedule, 1e-2, 0, 100)
    assert said == "the learning rate goes from 0.002 at step 1 to 0.01 at step 5, and falls to 0.001 at step 100"
    schedule = wsd(WSDConfig(decay_shape=DecayShape.linear), 0, 100)
    said = rate_ahead(schedule, 1e-2, 60, 100)
    assert said == "the learning rate is 0.01 at step 61, stays there until step 81, and falls to 0.0005 at step 100"


CONFIGS = {
    "constant": tiny_config(scheduler=ConstantConfig(warmup="3step"), trainer={"ema_decay": 0.9}),
    "cosine": tiny_config(scheduler=CosineConfig(warmup="3step", extend=True), trainer={"ema_decay": 0.9}),
}


def final_bytes(trainer, step):
    return {file.name: file.read_bytes() for file in trainer.checkpoints.path_of(step).glob("*.safetensors")}


def test_made_longer_a_constant_rate_gives_the_weights_of_one_long_training(make_trainer):
    config = CONFIGS["constant"]
    longer = with_trainer(config, max_duration="40step")
    whole = make_trainer(longer, "whole")
    whole.fit()
    make_trainer(config, "extended").fit()
    extended = make_trainer(longer, "extended", resume=True)
    assert extended.state.step == 24
    extended.fit()
    assert final_bytes(extended, 40) == final_bytes(whole, 40)


@pytest.mark.parametrize("stops", [(3,), (25,), (24, 37)])
def test_killed_in_its_longer_part_it_ends_with_the_same_bytes(make_trainer, monkeypatch, stops):
    """Also where it is made longer before its first end."""
    short, longer = CONFIGS["cosine"], with_trainer(CONFIGS["cosine"], max_duration="40step")
    for run in ("whole", "stopped"):
        with monkeypatch.context() as patch:
            if stops[0] < 24:
                stop_in_step(patch, stops[0])
            trainer = make_trainer(short, run)
            with trainer.stop:
                trainer.fit()
    whole = make_trainer(longer, "whole", resume=True)
    whole.fit()
    for step in stops if stops[0] >= 24 else (stops[0] + 9,):
        with monkeypatch.context() as patch:
            stop_in_step(patch, step)
            trainer = make_trainer(longer, "stopped", resume=True)
            with trainer.stop:
                assert trainer.fit() == "SIGTERM"
    resumed = make_trainer(longer, "stopped", resume=True)
    resumed.fit()
    assert len(resumed.state.lengths) == 1
    assert final_bytes(resumed, 40) == final_bytes(whole, 40)


def test_shares_are_of_the_training(make_trainer):
    config = tiny_config(scheduler=CosineConfig(warmup="25%"), trainer={"eval_every": "50%", "save_every": "12.5%"})
    trainer = make_trainer(config)
    assert (trainer.cadences.evaluate.steps, trainer.cadences.save.steps) == (12, 3)
    plain = make_trainer(replace(config, scheduler=CosineConfig(warmup="6step")), "plain")
    assert [trainer.schedule(step) for step in range(24)] == [plain.schedule(step) for step in range(24)]
    timed = make_trainer(
        tiny_config(scheduler=ConstantConfig(), trainer={"max_duration": "10min", "eval_every": "10%"}), "timed"
    )
    assert timed.cadences.evaluate.seconds == 60
