"""What a terminal shows of a pipeline: the plan before it starts, and how it went. Both fit into 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bigtrain.pipeline.definition import CONTROL, Pipeline
from bigtrain.pipeline.plan import Plan, Step
from bigtrain.pipeline.report import outcome_rows, primary_metric
from bigtrain.pipeline.store import Outcome
from bigtrain.tracking.formatting import number, short_path

_STATES = {"finished": "done", "begun": "goes on", "new": "to run", "": "to run"}


class Planned(NamedTuple):
    """A line of the plan, as text."""

    stage: str
    start: str
    model: str
    data: str
    length: str
    state: str


def show_plan(console: Console, plan: Plan, state_of: Callable[[Step], str]) -> None:
    """What will be run, and what is there already. What all trainings have in common stands above the table."""
    lines = [[_planned(step, state_of(step)) for step in steps] for steps in plan.rounds]
    several = len(lines) > 1
    common, columns = [], [0, 1]
    for column in (2, 3, 4):
        values = {line[column] for of_round in lines for line in of_round if line[column]}
        if len(values) == 1:
            common.append(f"{Planned._fields[column]} {values.pop()}")
        else:
            columns.append(column)
    title = f"pipeline {plan.pipeline.name}" + (f": {', '.join(common)}" if common else "")
    headings = {1: "from", 5: ""}
    table = _table(title, [headings.get(column, Planned._fields[column]) for column in (*columns, 5)], several)
    for round_number, of_round in enumerate(lines, start=1):
        for line in of_round:
            cells = [line[column] for column in (*columns, 5)]
            table.add_row(*([str(round_number)] if several else []), *cells)
    console.print(table)
    for note in plan.notes:
        _say(console, f"note: {note}")
    if several:
        _say(console, f"at most {len(plan.rounds)} rounds; {_until(plan.pipeline)}")


def show_outcome(
    console: Console, pipeline: Pipeline, rounds: list[list[Outcome]], verdict: Iterable[str], report: Path
) -> None:
    """A line for each stage, the verdict, and where to read on."""
    several = len(rounds) > 1
    headings = ["stage", "from", "metric", "val", "test", "time", ""]
    table = _table(f"pipeline {pipeline.name}", headings, several, numbers=("val", "test", "time"))
    for outcomes in rounds:
        for row in _rows(outcomes):
            table.add_row(*row[0 if several else 1 :])
    console.print()
    console.print(table)
    root = short_path(report.parent.parent.parent)
    lines = ["", f"report: {short_path(report)}", "", "# curves of all stages, side by side"]
    for line in [*verdict, *lines, f"tensorboard --logdir {root}"]:
        _say(console, line)


def _planned(step: Step, state: str) -> Planned:
    label, said = step.label.removesuffix(CONTROL), _STATES[state]
    if not step.trains:
        assert step.parent is not None
        return Planned(label, step.parent.stage, "", "", "", said)
    choices, config = step.composed.choices, step.composed.config
    start = step.start or (step.parent.stage if step.parent is not None else "")
    if step.parent is not None and step.parent.stage == step.stage:
        start = f"{start}, round {step.parent.round}"
    if step.control_of is not None:
        start = "scratch"
    elif step.start is not None:
        start = short_path(step.start)
    return Planned(label, start, choices["model"], choices["data"], config.trainer.max_duration, said)


def _rows(outcomes: Sequence[Outcome]) -> Iterator[list[str]]:
    """Of a round: each training by the metric that chose its weights; of an evaluation all splits in one line."""
    evaluated: dict[str, list[str]] = {}
    for outcome in outcomes:
        for row in outcome_rows(outcome):
            cells = [row.round, row.stage, row.start, row.metric, row.val, row.test, row.time, row.how]
            if outcome.step.trains:
                yield cells
            elif row.metric == primary_metric(outcome.step):
                first = evaluated.setdefault(outcome.step.stage, [row.round, outcome.step.stage, *cells[2:]])
                first[4], first[5] = first[4] or row.val, first[5] or row.test
    yield from evaluated.values()


def _table(title: str, headings: Sequence[str], several: bool, numbers: Sequence[str] = ()) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for name in (*(["round"] if several else []), *headings):
        table.add_column(name, justify="right" if name in numbers else "left")
    return table


def _until(pipeline: Pipeline) -> str:
    until, patience = pipeline.iterate.until, pipeline.iterate.patience
    words = []
    if until.target is not None:
        words.append(f"until {until.metric} is {number(until.target)}")
    if patience is not None:
        words.append(f"or {patience} in a row without a better {until.metric}")
    return " ".join(words) or "no target is set"


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
