"""Overfitting: the turning point, early stopping, the verdict and its levers, from rows alone."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.config.run import EarlyStoppingConfig, Mode, RunConfig, TrainerConfig
from bigtrain.config.settings import find_problems
from bigtrain.data.images.config import GlyphsConfig, ImageAugmentConfig
from bigtrain.models.vision.config import CNNConfig
from bigtrain.optim.config import AdamWConfig, CosineConfig
from bigtrain.report.overfit import USUAL_PATIENCE, Fit, Stop, early_stop, overfit_verdict, turning_point
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.training.selection import Selection
from bigtrain.training.state import TrainState

LOSS = TrainerConfig(early_stopping=EarlyStoppingConfig(metric="loss"))
CONFIG = RunConfig(
    model=CNNConfig(),
    data=GlyphsConfig(),
    task=ClassificationConfig(),
    optimizer=AdamWConfig(),
    scheduler=CosineConfig(),
    trainer=LOSS,
)
LOSSES = st.lists(st.floats(0.01, 100), min_size=2, max_size=30)


def rows(val, train=None):
    train = [None] * len(val) if train is None else train
    pairs = zip(val, train, strict=True)
    found = [{"step": 10 * place, "val/loss": v, "train_eval/loss": t} for place, (v, t) in enumerate(pairs, start=1)]
    return [{tag: value for tag, value in row.items() if value is not None} for row in found]


@given(LOSSES)
def test_a_loss_that_only_falls_has_no_turning_point(losses):
    assert turning_point(sorted(losses, reverse=True)) is None


@given(LOSSES, st.sampled_from([2.0**power for power in range(-8, 9)]))
def test_the_unit_of_the_loss_does_not_matter(losses, scale):
    assert turning_point([loss * scale for loss in losses]) == turning_point(losses)


@given(LOSSES)
def test_a_turning_point_is_the_lowest_and_before_the_end(losses):
    place = turning_point(losses)
    if place is not None:
        assert losses[place] == min(losses)
        assert losses[-1] > losses[place]


def test_a_rise_within_the_wobble_is_none():
    wobbly = [2.0, 1.5, 1.7, 1.4, 1.55, 1.3, 1.45]
    assert turning_point(wobbly) is None
    assert turning_point([*wobbly, 1.6]) == 5


@given(
    st.lists(st.floats(-10, 10) | st.just(math.nan), max_size=20),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5]),
)
def test_early_stopping_ends_where_the_trainer_would_have(values, higher, patience, min_delta):
    settings = EarlyStoppingConfig(
        patience=patience, metric="metric", mode=Mode.max if higher else Mode.min, min_delta=min_delta
    )
    selection = Selection(settings, ClassificationConfig(), TrainState())
    expected = None
    for step, value in enumerate(values):
        selection.observe({"metric": value}, step)
        if selection.exhausted:
            expected = step
            break
    found = early_stop(list(enumerate(values)), higher, patience, min_delta)
    assert (None if found is None else found.step) == expected


def test_a_classic_case():
    val, train = [1.0, 0.7, 0.6, 0.65, 0.75, 0.9], [0.9, 0.6, 0.45, 0.3, 0.2, 0.1]
    verdict = overfit_verdict(rows(val, train), CONFIG)
    assert (verdict.fit, verdict.turning_point) == (Fit.overfits, 30)
    assert verdict.early_stop == Stop(USUAL_PATIENCE, step=60, best_step=30)
    assert [round(gap.gap, 6) for gap in verdict.gaps] == [0.1, 0.1, 0.15, 0.35, 0.55, 0.8]
    assert "overfitting after step 30" in verdict.sentence and "0.9000" in verdict.sentence
    assert "trainer.max_duration=30step" in verdict.levers


@pytest.mark.parametrize(
    ("val", "train", "fit"),
    [
        ([1.0], [1.0], Fit.unknown),
        ([], [], Fit.unknown),
        ([1.0, 0.8, 0.7], [1.0, 0.78, 0.68], Fit.fits),
        ([1.0, 0.8, 0.7], [1.0, 0.5, 0.2], Fit.gap),
        ([1.0, 0.8, 1.5], [1.0, 0.8, 1.5], Fit.unstable),
        ([1.0, 0.8, 1.5], None, Fit.overfits),
        ([1.0, math.nan, 0.7], [1.0, math.nan, 0.69], Fit.fits),
    ],
)
def test_verdicts(val, train, fit):
    verdict = overfit_verdict(rows(val, train), CONFIG)
    assert verdict.fit is fit
    assert bool(verdict.levers) == (fit in (Fit.gap, Fit.overfits, Fit.unstable))


def test_the_row_of_the_best_weights_at_the_end_is_no_evaluation():
    end = {"step": 40, "val/loss": 0.1, "val/unigram_loss": 3.0, "test/loss": 5.0}
    verdict = overfit_verdict([*rows([1.0, 0.8, 0.7]), end], CONFIG)
    assert [gap.step for gap in verdict.gaps] == [10, 20, 30]


def test_levers_are_settings_that_are_there_and_off():
    """Each one is pulled: the settings stay valid, and it is named no more."""
    pulled = CONFIG
    for lever in overfit_verdict(rows([1.0, 0.5, 0.9], [1.0, 0.4, 0.2]), CONFIG).levers:
        *path, name = lever.partition("=")[0].split(".")
        nodes = [pulled]
        for part in path:
            nodes.append(getattr(nodes[-1], part))
        text = lever.partition("=")[2]
        assert name == "max_duration" or not getattr(nodes[-1], name)
        value = True if text == "true" else text if name == "max_duration" else float(text)
        changed = replace(nodes[-1], **{name: value})
        for part, node in zip(reversed(path), reversed(nodes[:-1]), strict=True):
            changed = replace(node, **{part: changed})
        pulled = changed
    assert not find_problems(pulled)
    again = overfit_verdict(rows([1.0, 0.5, 0.9], [1.0, 0.4, 0.2]), pulled).levers
    assert again == ("trainer.max_duration=20step",)


def test_no_lever_that_would_contradict_another():
    data = GlyphsConfig(augment=ImageAugmentConfig(cutmix=1.0))
    levers = overfit_verdict(rows([1.0, 0.5, 0.9]), replace(CONFIG, data=data)).levers
    assert not [lever for lever in levers if "mixup" in lever]


def test_patience_of_the_run_is_the_one_asked_about():
    trainer = TrainerConfig(early_stopping=EarlyStoppingConfig(patience=1, metric="loss"))
    verdict = overfit_verdict(rows([1.0, 0.5, 0.9, 0.9]), replace(CONFIG, trainer=trainer))
    assert verdict.early_stop == Stop(1, 30, 20)
