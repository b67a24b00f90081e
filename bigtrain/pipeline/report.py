"""What a pipeline leaves to read: report.md, report.html with its pictures inside, and scalars by round.

<output_dir>/<name>/pipelines/<date>_<time>-<4 hex>/
  overrides.txt  status.json  report.md  report.html  curves.png  tensorboard/
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bigtrain.config.pipeline import CONTROL, Pipeline
from bigtrain.config.watched import watched_metric
from bigtrain.pipeline.plan import Step
from bigtrain.pipeline.store import Outcome
from bigtrain.pipeline.verdict import gains_of, watched_value
from bigtrain.tracking.formatting import clock, number, scaled, short_path
from bigtrain.tracking.jsonl import read_rows
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Tracker
from bigtrain.training import durable


class Row(NamedTuple):
    """A line of the table: an outcome by one metric, in words."""

    round: str
    stage: str
    start: str
    metric: str
    val: str
    test: str
    best_step: str
    time: str
    tokens: str
    flops: str
    how: str
    place: str


HEADINGS = Row(
    "round", "stage", "starts from", "metric", "val", "test", "best step", "time", "tokens", "FLOP", "", "in"
)


def write_report(record: Path, pipeline: Pipeline, rounds: list[list[Outcome]], verdict: Sequence[str]) -> Path:
    """Writes everything; returns where report.html lies. Raises MachineError where it can't be written."""
    rows = [row for outcomes in rounds for outcome in outcomes for row in outcome_rows(outcome)]
    picture = curves_png(rounds)
    title = f"pipeline {pipeline.name}"
    with durable.disk_errors(record):
        durable.write_new(record / "curves.png", picture)
        durable.replace(record / "report.md", _markdown(title, verdict, rows))
        durable.replace(record / "report.html", _html(title, verdict, rows, picture))
    _write_scalars(record, pipeline, rounds, verdict)
    return record / "report.html"


def outcome_rows(outcome: Outcome) -> Iterator[Row]:
    """One row for a training, by the metric that chose its weights; of an evaluation, one for each metric."""
    step, cost = outcome.step, outcome.cost
    start = step.parent.stage if step.parent is not None else step.start or "scratch"
    if step.parent is not None and step.parent.stage == step.stage:
        start = f"{start}, round {step.parent.round}"
    if step.control_of is not None:
        start = "scratch"
    names = sorted({tag.partition("/")[2] for tag in outcome.metrics})
    if step.trains:
        names = [outcome.best_metric.partition("/")[2]]
    for name in names:
        val, test = (outcome.metrics.get(f"{split}/{name}") for split in ("val", "test"))
        yield Row(
            str(step.round),
            step.label.removesuffix(CONTROL),
            start,
            name,
            "" if val is None else number(val),
            "" if test is None else number(test),
            "" if outcome.best_step is None else f"{outcome.best_step:,}",
            clock(cost["seconds"]) if "seconds" in cost else "",
            scaled(cost["tokens"]) if cost.get("tokens") else "",
            scaled(cost["flops"]) if cost.get("flops") else "",
            outcome.how,
            short_path(outcome.place),
        )


def primary_metric(step: Step) -> str:
    """The metric to look at first, in a step and in the evaluation of it."""
    trained = step if step.trains or step.parent is None else step.parent
    config = trained.composed.config
    return watched_metric(config.trainer.early_stopping, config.task)[0]


def curves_png(rounds: list[list[Outcome]]) -> bytes:
    """The metric that chose the weights on validation, by step, for every training: one panel per stage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[Outcome]] = {}
    for outcome in {outcome.key: outcome for outcomes in rounds for outcome in outcomes}.values():
        if outcome.step.trains:
            panels.setdefault(outcome.step.stage.removesuffix(CONTROL), []).append(outcome)
    figure = Figure(figsize=(5.5 * max(1, len(panels)), 3.8), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for index, (stage, outcomes) in enumerate(panels.items(), start=1):
        axes: Any = figure.add_subplot(1, len(panels), index)
        for outcome in outcomes:
            rows = read_rows(outcome.place / "metrics.jsonl")
            points = [(row["step"], row[outcome.best_metric]) for row in rows if outcome.best_metric in row]
            of = f"round {outcome.step.round}" if len(rounds) > 1 else stage
            label = f"{of}, from scratch" if outcome.step.control_of is not None else of
            style = "--" if outcome.step.control_of is not None else "-"
            axes.plot(*zip(*points, strict=True) if points else ([], []), style, marker=".", label=label)
        axes.set_title(stage)
        axes.set_xlabel("step")
        axes.set_ylabel(outcomes[0].best_metric)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _markdown(title: str, verdict: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"# {title}", "", *(f"- {sentence}" for sentence in verdict), ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", "![validation by step](curves.png)", ""])


def _html(title: str, verdict: Sequence[str], rows: Sequence[Sequence[str]], picture: bytes) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;font-size:14px}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;"
        "text-align:left}img{max-width:100%}"
    )
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>',
            f"<h1>{html.escape(title)}</h1>",
            "<ul>",
            *(f"<li>{html.escape(sentence)}</li>" for sentence in verdict),
            "</ul>",
            "<table>",
            cells("th", HEADINGS),
            *(cells("td", row) for row in rows),
            "</table>",
            f'<p><img alt="validation by step" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></p>',
            "</html>",
            "",
        ]
    )


def _write_scalars(record: Path, pipeline: Pipeline, rounds: list[list[Outcome]], verdict: Sequence[str]) -> None:
    """Metrics by round, and the verdict as text; a sink that fails warns and is left out."""
    tracker = Tracker([TensorBoardSink(record / "tensorboard")])
    for index, outcomes in enumerate(rounds, start=1):
        row: dict[str, float | int] = {"step": index}
        for outcome in outcomes:
            row |= {f"pipeline/{outcome.step.stage}/{tag}": value for tag, value in outcome.metrics.items()}
        row |= {f"pipeline/gain/{gain.stage}/{gain.metric}": gain.gain for gain in gains_of([outcomes])}
        if watched := pipeline.iterate.until.metric:
            row["pipeline/watched"] = watched_value(watched, outcomes)
        tracker.scalars(row)
    tracker.text("pipeline/verdict", "\n".join(verdict), len(rounds))
    tracker.close()
