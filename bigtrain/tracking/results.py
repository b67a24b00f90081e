"""The end of a run: a table of results, what the model says, where the run lies, and what to do next.

Commands are printed as one line each, whatever the width of the terminal: they are there to be copied.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bigtrain.tracking.console import encodable
from bigtrain.tracking.formatting import clock, memory, number, percent, scaled, short_path


@dataclass(frozen=True)
class SplitMetrics:
    """One column of the table: the metrics of a split, by the weights of one step."""

    split: str  # "val"
    weights: str  # "best", "last"
    step: int
    metrics: dict[str, float]  # "loss", "accuracy", … without the split


@dataclass(frozen=True)
class Results:
    """What is known when a run has ended."""

    title: str
    run_dir: Path
    columns: list[SplitMetrics]
    steps: int
    train_seconds: float
    samples: int
    tokens: int | None = None
    optimal_loss: float | None = None
    optimal_accuracy: float | None = None
    share_of_peak: float | None = None
    sample: str = ""  # generated text
    warning: str = ""  # that it has memorised its training samples, or diverged
    commands: list[tuple[str, str]] = field(default_factory=list)  # (what for, command); see `next_commands`
    report: str = ""  # path of the written report
    memory: tuple[int, int] | None = None  # bytes of a rank at the peak of a step: predicted, measured; if measured


BASELINES = {
    "accuracy": ("majority_accuracy", "centroid_accuracy"),
    "masked_language_model": ("unigram_loss",),
    "loss": ("unigram_loss", "bigram_loss", "5gram_loss"),
}
"""Metric → the metrics that say what little effort reaches of it."""


def gain_over_baseline(metrics: Mapping[str, float]) -> tuple[str, str, float] | None:
    """(metric, its best baseline, how much better it is than that) of a split; None where no baseline is known.

    Of a loss that is a sum, its part that the baseline is of.
    """
    for metric, names in BASELINES.items():
        known = {name: metrics[name] for name in names if name in metrics}
        if metric in metrics and known:
            higher = metric == "accuracy"
            best = (max if higher else min)(known, key=lambda name: known[name])
            return metric, best, (metrics[metric] - known[best]) * (1 if higher else -1)
    return None


def result_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table of results: metric by split, empty where a split lacks it.

    The distance from a known optimum follows loss and accuracy, and the gain over the best baseline its metric.
    """
    header = ["", *(f"{column.split}, {column.weights}\nstep {column.step:,}" for column in results.columns)]
    rows = []
    names = dict.fromkeys(name for column in results.columns for name in column.metrics)
    names.pop("excess", None)  # said below the loss
    gains = [gain_over_baseline(column.metrics) for column in results.columns]
    for name in names:
        values = [column.metrics.get(name) for column in results.columns]
        rows.append([name.replace("_", " "), *("" if value is None else number(value) for value in values)])
        optimum = {"loss": results.optimal_loss, "accuracy": results.optimal_accuracy}.get(name)
        if optimum is not None:
            distances = ["" if value is None else f"{value - optimum:+.4f}" for value in values]
            relation = "above" if name == "loss" else "from"
            rows.append([f"  {relation} optimum {number(optimum)}", *distances])
        if any(gain and gain[0] == name for gain in gains):
            rows.append(["  gain over baseline", *(f"{gain[2]:+.4f}" if gain else "" for gain in gains)])
    return header, rows


def results_table(results: Results) -> Table:
    """`result_rows` for a console."""
    table = Table(title=results.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    header, rows = result_rows(results)
    for number_of_column, name in enumerate(header):
        table.add_column(name, justify="right" if number_of_column else "left")
    for row in rows:
        table.add_row(*row)
    return table


def print_results(console: Console, results: Results) -> None:
    """Prints everything, for a terminal or plainly where `console` is none."""
    if results.columns:
        console.print(results_table(results))
    else:
        _print_line(console, "no metrics: there is neither a val nor a test split", style="yellow")
    console.print(Text(_effort(results)))
    if results.memory:
        predicted, measured = results.memory
        said = f"{memory(predicted)} predicted, {memory(measured)} measured ({predicted / measured - 1:+.1%})"
        console.print(Text(f"memory of a step at its peak: {said}"))
    if results.warning:
        _print_line(console, results.warning, style="yellow")
    if results.sample:
        _print_sample(console, results.sample)
    _print_line(console, f"run: {short_path(results.run_dir)}")
    if results.report:
        _print_line(console, f"report: {short_path(results.report)}")
    for purpose, command in results.commands:
        console.print()
        _print_line(console, f"# {purpose}", style="dim")
        _print_line(console, command)


def _effort(results: Results) -> str:
    words = [f"{results.steps:,} steps in {clock(results.train_seconds)}"]
    if results.train_seconds > 0:
        amount, unit = (results.tokens, "tok/s") if results.tokens else (results.samples, "samples/s")
        words.append(scaled(amount / results.train_seconds, unit))
    if results.share_of_peak is not None:
        words.append(f"{percent(results.share_of_peak)} of this machine's measured peak")
    return ", ".join(words)


def _print_sample(console: Console, sample: str) -> None:
    text = encodable(sample.strip("\n"), console.file)
    if console.is_terminal:
        console.print(Panel(Text(text), title="sample", title_align="left", border_style="dim", box=box.ROUNDED))
        return
    _print_line(console, "\nsample:")
    for line in text.splitlines():
        _print_line(console, f"  {line}")
    _print_line(console, "")


def _print_line(console: Console, line: str, style: str = "") -> None:
    # soft_wrap: rich neither wraps nor crops; a terminal may fold the line, and copying it still gives one
    # line.
    console.print(Text(encodable(line, console.file), style=style), soft_wrap=True)


def next_commands(run_dir: Path, prompt: str | None = None, plugins: str = "") -> list[tuple[str, str]]:
    """The useful next commands, all splits being measured by then. `prompt` where the model generates text; `plugins`:
    the word that they need, too.
    """
    path = short_path(run_dir)
    checkpoint = f"{plugins} {override('checkpoint', path)}".lstrip()
    commands = [("curves, samples, settings", shlex.join(["tensorboard", "--logdir", path]))]
    if prompt is not None:
        commands.append(("let it write", f"bigtrain generate {checkpoint} prompt={shlex.quote(prompt)}"))
    return commands


def override(key: str, value: str) -> str:
    """`key=value` for a shell, and for Hydra's grammar, which takes commas, quotes, brackets … as its own."""
    if not re.fullmatch(r"[A-Za-z0-9_./+@:-]+( +[A-Za-z0-9_./+@:-]+)*", value):
        escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", value)  # Hydra: backslashes count only before a quote
        escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
        value = f"'{escaped}'"
    # Double quotes read better around single ones, where nothing inside means something to the shell.
    quoted = f'"{value}"' if "'" in value and not re.search(r'["$`\\!]', value) else shlex.quote(value)
    return f"{key}={quoted}"
