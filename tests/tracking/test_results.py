"""The end of a run: the table, the sample, and commands that can be copied whole."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from bigtrain.tracking.results import Results, SplitMetrics, gain_over_baseline, next_commands, override, print_results

LONG = Path("outputs/transformer-python_docs-with-a-long-name/2025-01-02_10-11-12-ab12-and-more")
RESULTS = Results(
    title="transformer on python_docs",
    run_dir=LONG,
    columns=[
        SplitMetrics("val", "best", 1750, {"loss": 1.8234, "bits_per_byte": 2.63}),
        SplitMetrics("val", "last", 2000, {"loss": 1.83, "bits_per_byte": 2.64}),
        SplitMetrics("test", "best", 1750, {"loss": 1.8134}),
    ],
    steps=2000,
    train_seconds=83.2,
    samples=64000,
    tokens=16_384_000,
    optimal_loss=1.8,
    share_of_peak=0.381,
    sample="The quick \x1b[31mbrown é fox",
    commands=next_commands(LONG, prompt="The meaning of"),
)


def _printed(results: Results, width: int = 80, terminal: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_results(console, results)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_commands_and_paths_are_never_wrapped_or_cut(width, terminal):
    lines = _printed(RESULTS, width, terminal).splitlines()
    for _, command in RESULTS.commands:
        assert command in lines
    assert f"run: {LONG}" in lines


@pytest.mark.parametrize("terminal", [False, True])
def test_the_table_has_each_metric_by_split_with_its_step_and_the_excess(terminal):
    text = _printed(RESULTS, 80, terminal)
    for row in (
        ["val, best", "val, last", "test, best"],
        ["step 1,750", "step 2,000", "step 1,750"],
        ["loss", "1.8234", "1.8300", "1.8134"],
        ["above optimum 1.8000", "+0.0234", "+0.0300", "+0.0134"],
        ["bits per byte", "2.6300", "2.6400"],
    ):
        assert any(_in_order(row, line) for line in text.splitlines()), row
    assert "2,000 steps in 1:23, 197k tok/s, 38% of this machine's measured peak" in text


def test_accuracy_stands_beside_the_best_possible():
    columns = [SplitMetrics("val", "best", 5, {"loss": 0.3, "accuracy": 0.8831, "excess": 0.02})]
    text = _printed(replace(RESULTS, columns=columns, optimal_loss=0.28, optimal_accuracy=0.886))
    for row in (["loss", "0.3000"], ["above optimum 0.2800", "+0.0200"], ["from optimum 0.8860", "-0.0029"]):
        assert any(_in_order(row, line) for line in text.splitlines()), row
    assert "excess" not in text


def _in_order(words: list[str], line: str) -> bool:
    position = 0
    for word in words:
        position = line.find(word, position)
        if position < 0:
            return False
    return True


def test_a_generated_escape_sequence_never_reaches_the_terminal():
    for terminal in (False, True):
        text = _printed(RESULTS, terminal=terminal)
        assert "\x1b" not in text
        assert "brown é fox" in text


def test_any_encoding_prints():
    text = _printed(RESULTS, encoding="ascii")
    assert "brown ? fox" in text


def test_markup_in_a_sample_is_text():
    assert "[bold]not bold[/bold]" in _printed(replace(RESULTS, sample="[bold]not bold[/bold]"), terminal=True)


def test_images_have_samples_per_second_and_no_prompt():
    results = replace(RESULTS, tokens=None, sample="", optimal_loss=None, commands=next_commands(LONG))
    text = _printed(results)
    assert "769 samples/s" in text
    assert "generate" not in text and "above optimum" not in text and "sample:" not in text


def test_next_commands():
    commands = dict(next_commands(Path("outputs/run"), prompt="The meaning of"))
    assert list(commands.values()) == [
        "tensorboard --logdir outputs/run",
        "bigtrain generate checkpoint=outputs/run prompt='The meaning of'",
    ]


def test_next_commands_name_the_plug_ins_that_they_need():
    commands = dict(next_commands(Path("outputs/run"), prompt="The", plugins="plugins=[mine]"))
    assert commands["let it write"] == "bigtrain generate plugins=[mine] checkpoint=outputs/run prompt=The"


def test_paths_outside_the_current_directory_are_absolute():
    assert dict(next_commands(Path("/somewhere/else"), prompt="The"))["let it write"] == (
        "bigtrain generate checkpoint=/somewhere/else prompt=The"
    )


def _survives(value: str) -> None:
    (argument,) = shlex.split(override("prompt", value))
    parsed = OverridesParser.create().parse_override(argument)
    assert parsed.key_or_group == "prompt"
    read = parsed.value()
    if isinstance(read, str):
        assert str(read) == value
    else:  # "7", "true", "null": plain words that a text setting takes back as text
        assert "'" not in argument


@pytest.mark.parametrize("letter", [chr(code) for code in range(32, 127)])
def test_every_printable_letter_survives_the_shell_and_hydra_wherever_it_stands(letter):
    for value in (letter, f"{letter}a", f"a{letter}", f"a{letter}b", letter * 2, f"a {letter} b"):
        _survives(value)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)
    | st.text("a' \\,\"[]{}=$(:#-!`.", min_size=1, max_size=8)
)
@example("The ")
@example(" a")
@example("it's")
@example("ends in \\")
@example("${oc.env:HOME}")
def test_any_value_survives_the_shell_and_hydra(value):
    _survives(value)


def test_the_gain_over_the_best_baseline():
    loss = {"loss": 1.5, "bigram_loss": 2.0, "unigram_loss": 3.0}
    assert gain_over_baseline(loss) == ("loss", "bigram_loss", 0.5)
    accuracy = {"loss": 1.0, "accuracy": 0.5, "majority_accuracy": 0.4, "centroid_accuracy": 0.75}
    assert gain_over_baseline(accuracy) == ("accuracy", "centroid_accuracy", -0.25)
    pair = {"loss": 3.0, "masked_language_model": 2.5, "next_sentence": 0.5, "unigram_loss": 4.0}
    assert gain_over_baseline(pair) == ("masked_language_model", "unigram_loss", 1.5)
    assert gain_over_baseline({"loss": 1.0, "r2": 0.5}) is None
