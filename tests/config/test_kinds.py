"""Every data, model and task, in every combination: what goes together, and advice that is good advice."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from omegaconf import OmegaConf

from bigtrain.config.checks import find_conflicts
from bigtrain.config.run import RunConfig
from bigtrain.config.schema import field_types, register_parts
from bigtrain.optim.config import ConstantConfig, OneCycleConfig
from bigtrain.registry import DATA, MODELS, OPTIMIZERS, SCHEDULERS, TASKS

register_parts()
REGISTRIES = {"data": DATA, "model": MODELS, "task": TASKS}
CHOICES = {kind: {entry.name: entry.config_class() for entry in registry} for kind, registry in REGISTRIES.items()}


def problems(data, model, task):
    chosen = {"data": CHOICES["data"][data], "model": CHOICES["model"][model], "task": CHOICES["task"][task]}
    config = RunConfig(**chosen, scheduler=ConstantConfig())
    parts = {kind: {name: name for name in choices} for kind, choices in CHOICES.items()}
    return [
        problem
        for problem in find_conflicts(config, parts.__getitem__)
        if "data gives" in problem.message or "task needs" in problem.message
    ]


def advised(fix):
    """kind → the choices that a sentence of advice names."""
    found = {}
    for kind, name in re.findall(r"(data|model|task)=([\w/]+)", fix):
        found.setdefault(kind, set()).add(name)
    return found


TRIPLES = list(itertools.product(*CHOICES.values()))


def test_advice_is_every_single_change_that_helps_or_else_what_two_would_need():
    fitting = {triple for triple in TRIPLES if not problems(*triple)}
    for triple in set(TRIPLES) - fitting:
        (problem,) = problems(*triple)
        helpful = {
            kind: {name for name in CHOICES[kind] if (*triple[:place], name, *triple[place + 1 :]) in fitting}
            for place, kind in enumerate(CHOICES)
        }
        helpful = {kind: names for kind, names in helpful.items() if names}
        if helpful:
            assert advised(problem.fix) == helpful
            continue
        assert problem.fix.startswith("two of the three have to change")
        for model in advised(problem.fix).get("model", ()):
            assert any((triple[0], model, task) in fitting for task in CHOICES["task"])
        for task in advised(problem.fix)["task"]:
            assert any((data, triple[1], task) in fitting for data in CHOICES["data"])


@pytest.mark.parametrize("kind", CHOICES)
def test_everything_fits_something(kind):
    fitting = [dict(zip(CHOICES, triple, strict=True))[kind] for triple in TRIPLES if not problems(*triple)]
    assert set(fitting) == set(CHOICES[kind])


@pytest.mark.parametrize(
    ("triple", "message"),
    [
        (("text_corpus", "transformer", "classification"), "the data gives text, but the task can only use"),
        (("disks", "cnn", "classification"), "the data gives images with values, but the task needs classes"),
        (("glyphs", "cnn", "regression"), "the data gives images with classes, but the task needs values"),
        (("text_corpus", "cnn", "seq2seq"), "the data gives text, but the model can only use images"),
        (("glyphs", "transformer", "language_modeling"), "but the model and the task can only use text"),
        (("text_corpus", "bert", "language_modeling"), "a vector per token that has seen only the tokens up to it"),
    ],
)
def test_what_does_not_fit_is_said(triple, message):
    assert message in problems(*triple)[0].message


def test_what_only_some_classes_have_as_a_setting_has_a_value_in_all_and_is_no_setting_in_the_others():
    assert (OneCycleConfig().warmup, ConstantConfig(warmup="5%").warmup) == ("0step", "5%")
    for config, absent in ((OneCycleConfig(), "warmup"), (CHOICES["model"]["mlp"], "max_length")):
        assert absent not in OmegaConf.structured(config) and absent not in field_types(type(config))
        assert absent not in dataclasses.asdict(config)
    for registry in (*REGISTRIES.values(), OPTIMIZERS, SCHEDULERS):
        for entry in registry:
            values = dataclasses.asdict(entry.config_class())
            assert not [name for name, value in values.items() if isinstance(value, property)], entry.name
