"""`bigtrain compare RUN RUN …`: a table of settings that differ, metrics and costs of runs; their curves as a PNG."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bigtrain.config.compose import Composed
from bigtrain.config.run import CompareConfig
from bigtrain.config.strict import show
from bigtrain.config.watched import smaller_is_better
from bigtrain.errors import ConfigError, ExitCode, printable
from bigtrain.report.comparing import Comparability, comparability, differing_settings
from bigtrain.report.curves import Panel, curves_png, series_of
from bigtrain.report.runs import Point, RunRecord, find_runs, readable
from bigtrain.storage import durable
from bigtrain.tracking.console import SteadyConsole, encodable
from bigtrain.tracking.curve import bounds, sparkline
from bigtrain.tracking.formatting import clock, number, scaled, short_path

PNG, CSV = "compare.png", "compare.csv"
_MOST_COLUMNS = 4  # runs that stand side by side; more stand below each other
_LONGEST_VALUE = 40
_CHART_WIDTH = 60


def run(composed: Composed) -> int:
    """Compares. Raises ConfigError for fewer than two runs, CheckpointError for a path without one."""
    config: CompareConfig = composed.config
    found, others = find_runs(composed.request.paths)
    runs, unreadable = readable(found)
    notes = [*others, *unreadable]
    if len(runs) < 2:
        cause = "; ".join(notes) or f"found {', '.join(str(item.path) for item in runs) or 'none'}"
        fix = "bigtrain compare outputs/a/<run> outputs/b/<run>, a folder that holds some, or 'outputs/*/*'"
        raise ConfigError.of("COMPARE-RUNS", "bigtrain compare needs two runs or more", cause=cause, fix=fix)
    verdicts = [comparability(runs[0], other) for other in runs]
    metric = _metric(config.metric, runs, verdicts)
    names = [str(place) for place in range(1, len(runs) + 1)]
    facts = dict(_facts(runs, metric))
    differences = differing_settings(runs)

    folder = Path(config.path).expanduser()
    with durable.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace(folder / CSV, _csv(runs, facts, differences))
        durable.replace(folder / PNG, curves_png(_panels(runs, names, metric)))
    console = SteadyConsole()
    for name, item in zip(names, runs, strict=True):
        _print(console, f"{name}  {short_path(item.path)}  ({_state(item)})")
    for table in _tables(names, facts, differences, console.width):
        console.print(table)
    for sentence in [*_sentences(names, verdicts, metric), *notes]:
        _print(console, sentence)
    if sys.stdout.isatty():
        for line in _chart(runs, names, metric):
            _print(console, line)
    _print(console, f"curves: {short_path(folder / PNG)}, table: {short_path(folder / CSV)}")
    return ExitCode.OK


def _metric(asked: str, runs: Sequence[RunRecord], verdicts: Sequence[Comparability]) -> str:
    """The metric asked for; else one that all runs have, the first run's own before others, that may be compared."""
    tags = {tag: all(run.points(tag) for run in runs) for run in runs for row in run.rows for tag in row}
    if asked:
        if asked not in tags:
            known = ", ".join(sorted(tag for tag in tags if tag.startswith(("val/", "test/", "train"))))
            raise ConfigError.of("CONFIG-VALUE", f"metric is {asked}, which no run has logged", fix=f"one of {known}")
        return asked
    wanted = [runs[0].watched, "val/loss", "val/bits_per_byte", *(tag for tag in tags if tag.startswith("val/"))]
    common = [tag for tag in wanted if tags.get(tag)]
    comparable = [tag for tag in common if all(verdict.allows(tag) for verdict in verdicts)]
    return next(iter([*comparable, *common, "train/loss"]))


def _facts(runs: Sequence[RunRecord], metric: str) -> Iterator[tuple[str, list[str]]]:
    """Row by row, one text for each run; "" where it is not known. Rows without any text are left out by the table."""
    smaller = smaller_is_better(metric.rpartition("/")[2])

    def value(point: Point | None) -> str:
        return "" if point is None else f"{number(point.value)} (step {point.step:,})"

    def cost(name: str, shown: Any) -> list[str]:
        amounts = [run.cost(name) for run in runs]
        return ["" if amount is None else shown(amount) for amount in amounts]

    test = f"test/{metric.rpartition('/')[2]}"
    yield "state", [_state(run) for run in runs]
    yield f"best {metric}", [value(run.best(metric, smaller)) for run in runs]
    yield f"last {metric}", [value(run.last(metric)) for run in runs]
    if any(run.best_of_all_samples(metric) for run in runs):  # the others' rows are of all samples anyway
        yield f"best {metric}, all samples", [value(run.best_of_all_samples(metric)) for run in runs]
    if metric != test:
        tested = [run.last(test) for run in runs]
        yield f"{test}, best weights", ["" if point is None else number(point.value) for point in tested]
    yield "steps", [f"{run.steps:,}" for run in runs]
    yield "time of training", cost("seconds", clock)
    yield "samples", cost("samples", lambda amount: f"{amount:,.0f}")
    yield "tokens", cost("tokens", lambda amount: f"{amount:,.0f}")
    yield "compute", cost("flops", lambda amount: scaled(amount, "FLOP"))
    yield "machine", [run.machine for run in runs]


def _state(run: RunRecord) -> str:
    words = {"died": "died without a word", "running": "still running"}
    state = words.get(run.state, run.state)
    reason = str(run.status.get("reason") or "").splitlines()
    return f"{state}: {reason[0][:_LONGEST_VALUE]}" if reason and run.state == "failed" else state


def _tables(
    names: Sequence[str], facts: dict[str, list[str]], differences: dict[str, list[Any]], width: int
) -> Iterator[Table]:
    """Facts and settings that differ: a row for each, runs as columns; of many runs, a row for each run.

    What does not fit beside the others then goes into a further table, and what all have in common is left out.
    """
    shown = {name: values for name, values in facts.items() if any(values) and name != "state"}
    settings = {key: [_short(value) for value in values] for key, values in differences.items()}
    if len(names) <= _MOST_COLUMNS:
        rows = [[name, *values] for name, values in (shown | settings).items()]
        yield _table([(heading, cells) for heading, *cells in zip(["run", *names], *rows, strict=True)])
        return
    results = {name: values for name, values in shown.items() if name.startswith(("best", "test", "time"))}
    others = {name: values for name, values in shown.items() if name not in results and len(set(values)) > 1}
    ends = [key.rpartition(".")[2] for key in settings]
    settings = {end if ends.count(end) == 1 else key: settings[key] for key, end in zip(settings, ends, strict=True)}
    left = [(name.replace(" ", "\n", 1), values) for name, values in (results | settings | others).items()]
    while left:
        columns = [("run", list(names))]
        while left and (len(columns) == 1 or sum(map(_width, [*columns, left[0]])) < width):
            columns.append(left.pop(0))
        yield _table(columns)


_Column = tuple[str, list[str]]  # heading, cells


def _width(column: _Column) -> int:
    heading, cells = column
    return max(map(cell_len, [*heading.splitlines(), *cells])) + 3


def _table(columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading, _ in columns:
        table.add_column(Text(printable(heading)), overflow="fold")
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _short(value: Any) -> str:
    text = "" if value is None else str(value) if isinstance(value, str) else show(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _sentences(names: Sequence[str], verdicts: Sequence[Comparability], metric: str) -> Iterator[str]:
    """Runs that can't be compared with the first one, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, verdict in zip(names[1:], verdicts[1:], strict=True):
        if not verdict.everything:
            also = "" if verdict.allows(metric) else f" (so not {metric})"
            reasons.setdefault(verdict.sentence + also, []).append(name)
    for reason, others in reasons.items():
        yield f"1 and {', '.join(others)}: {reason}"


def _panels(runs: Sequence[RunRecord], names: Sequence[str], metric: str) -> list[Panel]:
    labels = [f"{name}  {run.path.parent.name}/{run.path.name}" for run, name in zip(runs, names, strict=True)]

    def panel(tag: str) -> Panel:
        return Panel(tag, [series_of(run.rows, tag, label) for run, label in zip(runs, labels, strict=True)])

    return [panel(tag) for tag in dict.fromkeys((metric, "train/loss"))]


def _chart(runs: Sequence[RunRecord], names: Sequence[str], metric: str) -> Iterator[str]:
    """A line for each run on one scale, as long as its steps."""
    curves = [[point.value for point in run.points(metric)] for run in runs]
    ends = [max((point.step for point in run.points(metric)), default=0) for run in runs]
    limits = bounds([value for curve in curves for value in curve])
    yield f"{metric}, from {number(limits[0])} to {number(limits[1])}"
    for name, curve, end in zip(names, curves, ends, strict=True):
        width = max(1, round(_CHART_WIDTH * end / max(*ends, 1)))
        stretched = [curve[place * len(curve) // width] for place in range(width)] if curve else []
        yield f"{name:>{len(names[-1])}}  {sparkline(stretched, width, limits)}"


def _csv(runs: Sequence[RunRecord], facts: dict[str, list[str]], differences: dict[str, list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *facts, *differences])
    for place, item in enumerate(runs):
        columns = [values[place] for values in (*facts.values(), *differences.values())]
        writer.writerow([item.path, *("" if value is None else value for value in columns)])
    return text.getvalue()


def _print(console: SteadyConsole, line: str) -> None:
    console.print(Text(encodable(line, console.file)), soft_wrap=True)
