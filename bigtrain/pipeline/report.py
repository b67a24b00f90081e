"""What a pipeline leaves to read: report.md, report.html with its pictures inside, and scalars by round.

<output_dir>/<name>/pipelines/<date>_<time>-<4 hex>/
  overrides.txt  status.json  report.md  report.html  curves.png  tensorboard/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bigtrain.config.watched import at_the_end, watched_metric
from bigtrain.pipeline.definition import CONTROL, Pipeline
from bigtrain.pipeline.plan import Step
from bigtrain.pipeline.store import Outcome
from bigtrain.pipeline.verdict import gains_of, watched_value
from bigtrain.report.curves import Panel, curves_png, series_of
from bigtrain.report.document import Block, Heading, Listing, Paragraph, Picture, Table, write_document
from bigtrain.report.run_report import REPORT
from bigtrain.tracking.formatting import clock, number, scaled, short_path
from bigtrain.tracking.jsonl import read_rows
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Tracker


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
    rows = [list(row) for outcomes in rounds for outcome in outcomes for row in outcome_rows(outcome)]
    blocks: list[Block] = [
        Heading("Verdict"),
        Listing(verdict),
        Heading("Stages"),
        Table(HEADINGS, rows, text=True),
        Paragraph("Each training has a report of its own in its folder."),
        Picture("curves.png", curves_png(stage_panels(rounds)), "validation by step"),
    ]
    write_document(record, REPORT, f"pipeline {pipeline.name}", blocks)
    _write_scalars(record, pipeline, rounds, verdict)
    return record / f"{REPORT}.html"


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
        names = [at_the_end(outcome.best_metric.partition("/")[2])]
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
    return at_the_end(watched_metric(config.trainer.early_stopping, config.task)[0])


def stage_panels(rounds: list[list[Outcome]]) -> list[Panel]:
    """The metric that chose the weights, on validation, by step: a panel per stage, a line per training."""
    panels: dict[str, Panel] = {}
    different = {outcome.key: outcome for outcomes in rounds for outcome in outcomes if outcome.step.trains}
    for outcome in different.values():
        step, metric = outcome.step, outcome.best_metric
        stage = step.stage.removesuffix(CONTROL)
        label = f"round {step.round}" if len(rounds) > 1 else "as it ran"
        label = "from scratch" if step.control_of is not None else label
        line = series_of(read_rows(outcome.place / "metrics.jsonl"), metric, label)
        before = panels.get(stage, Panel(f"{stage}: {metric}", ()))
        panels[stage] = Panel(before.title, (*before.series, line))
    return list(panels.values())


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
