"""What is wrong with a tree of settings is data: the key of each problem, and a message that names it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bigtrain.config.settings import Invalid, find_problems, setting
from bigtrain.errors import BigtrainError
from tests.config.composing import composed


@dataclass
class Inner:
    depth: int = setting(7, "Layers.", at_least=8)
    width: int = 3

    def problems(self) -> list:
        return [Invalid("width", "is 3; it must be even")]


@dataclass
class OfAnOldPlugin(Inner):
    def problems(self) -> list:
        return ["width is 3; it must be even"]


@dataclass
class OfAPluginThatInherits(Inner):
    def problems(self) -> list:
        return super().problems() + ["depth / width is 2.3; it must be whole"]


@dataclass
class Outer:
    inner: Inner


@pytest.mark.parametrize("kind", [Inner, OfAnOldPlugin])
def test_a_problem_has_the_dotted_key_and_a_message_that_names_it(kind):
    depth, width = find_problems(Outer(kind()), "model")
    assert (depth.key, depth.message, depth.fix) == (
        "model.inner.depth",
        f"{depth.key} is 7; it must be at least 8",
        "Layers.",
    )
    assert (width.key, width.message) == ("model.inner.width", "model.inner.width is 3; it must be even")


def test_a_plugin_may_add_sentences_to_what_it_inherits():
    assert [problem.key for problem in find_problems(OfAPluginThatInherits())] == ["depth", "width", "depth"]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["trainer.batch_size=big", "trainer.gpu=1"], ["trainer.batch_size", "trainer.gpu"]),
        (["trainer.batch_size=32", "trainer.processes=3", "name=a/b"], ["trainer.batch_size", "name"]),
        (["model.num_heads=3", "seed=-1"], ["seed", "model.num_heads"]),
        (["trainer.max_duration=2step", "scheduler.warmup=3step"], ["scheduler.warmup"]),
        (["scheduler.extend=true"], ["scheduler.extend"]),
        (["seed=${sed}"], ["seed"]),
        (["data=idx"], [""]),
    ],
    ids=str,
)
def test_a_refused_command_line_says_which_settings_it_is_about(words, keys):
    with pytest.raises(BigtrainError) as error:
        composed(*words)
    assert [problem.key for problem in error.value.problems] == keys
