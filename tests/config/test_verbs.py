"""The registry of verbs: a verb is one entry, and everything that lists, offers or starts verbs finds it there."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

from bigtrain.cli import main
from bigtrain.config.completion import complete
from bigtrain.config.run import RunConfig
from bigtrain.config.verbs import DEFAULT, VERBS, Verb

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weigh(monkeypatch) -> list:
    """A new verb: an entry, and the module of its command, which notes what it is called with."""
    calls: list = []
    verb = Verb("weigh", "say how large a model is", RunConfig, ("bigtrain weigh model=cnn",), takes_paths=True)
    monkeypatch.setitem(VERBS, verb.name, verb)
    command = types.SimpleNamespace(run=lambda composed: calls.append(composed) or 0)
    monkeypatch.setitem(sys.modules, "bigtrain.commands.weigh", command)
    return calls


def test_a_verb_is_one_entry(weigh, capsys):
    assert main(["weigh", "some/path", "model=cnn"]) == 0
    (composed,) = weigh
    assert (composed.verb, composed.choices["model"], composed.request.paths) == ("weigh", "cnn", ("some/path",))
    assert main(["weigh", "--help"]) == 0
    page = capsys.readouterr().out
    assert "bigtrain weigh: say how large a model is" in page
    assert "usage: bigtrain weigh PATH PATH… [KEY=VALUE…]" in page
    assert "  bigtrain weigh model=cnn" in page
    assert complete("bigtrain wei") == ["weigh"]
    assert complete("bigtrain weigh model=c") == ["model=cnn"]
    assert main(["wiegh"]) == 2
    assert "did you mean bigtrain weigh ?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_every_verb_has_its_parts(verb):
    assert importlib.util.find_spec(f"bigtrain.commands.{verb.command}")
    root = (ROOT / f"configs/{verb.root}.yaml").read_text()
    assert re.search(rf"^\s*- {verb.schema}$", root, re.MULTILINE)
    assert verb.help
    assert all(line.startswith("bigtrain") for line in verb.examples)


def test_verbs_of_a_training_share_its_settings():
    assert [verb.name for verb in VERBS.values() if verb.describes_training] == [DEFAULT, "plan", "check-data"]
    assert VERBS["check-data"].root == DEFAULT


def test_a_plan_composes_as_a_training_does():
    """Its root YAML is that of a training, but for the schema."""
    lines = {
        verb: (ROOT / f"configs/{verb}.yaml").read_text().partition("defaults:\n")[2] for verb in ("train", "plan")
    }
    assert lines["plan"].replace("schema/plan", "schema/run") == lines["train"]
