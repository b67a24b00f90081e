"""The report of a run: report.md and report.html, written at its end from the run directory and its results.

Its sections: settings, results with baselines and optimum, curves, overfitting, the data audit, samples, cost. The
report of a pipeline uses `run_blocks` and single sections too.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.config.run import RunConfig
from bigtrain.config.saved import MARK, flatten
from bigtrain.config.settings import walk
from bigtrain.config.strict import show
from bigtrain.config.watched import watched_metric
from bigtrain.report.curves import Panel, curves_png, series_of
from bigtrain.report.document import Block, Heading, Listing, Paragraph, Picture, Table, Verbatim, write_document
from bigtrain.report.overfit import Fit, OverfitVerdict, overfit_verdict
from bigtrain.tracking.formatting import clock, memory, number, percent, scaled
from bigtrain.tracking.jsonl import read_rows
from bigtrain.tracking.results import Results, gain_over_baseline, result_rows
from bigtrain.tracking.tracker import Row

REPORT = "report"
_MOST_GAPS = 12  # evaluations in the table of gaps
_MOST_CELLS = 200  # letters of what an audit says in one cell


@dataclass(frozen=True)
class ReportedRun:
    """The input of a report beside the run's files. `document`: its settings, redacted; `facts`: (name, sentence)."""

    config: RunConfig
    document: dict[str, Any]
    facts: Sequence[tuple[str, str]]
    results: Results
    flops: float


def write_run_report(run_dir: Path, run: ReportedRun) -> Path:
    """Writes both files, and curves.png; returns the HTML's path. Raises MachineError."""
    write_document(run_dir, REPORT, run.results.title, list(run_blocks(run_dir, run)))
    return run_dir / f"{REPORT}.html"


def run_blocks(run_dir: Path, run: ReportedRun) -> Iterator[Block]:
    """All sections."""
    rows = read_rows(run_dir / "metrics.jsonl")
    verdict = overfit_verdict(rows, run.config)
    yield from _what_ran(run_dir, run)
    yield from results_blocks(run.results)
    yield Heading("Curves")
    yield Picture("curves.png", curves_png(curve_panels(rows, run, verdict)), "losses and metrics by step")
    yield from overfit_blocks(verdict)
    yield from audit_blocks(run_dir / "audit.json")
    if run.results.sample:
        yield Heading("Sample")
        yield Verbatim(run.results.sample)
    yield from cost_blocks(run.results, run.flops)


def changed_settings(config: Any, document: dict[str, Any]) -> list[str]:
    """`key=value` of every setting that is not the default of its part; values as the redacted document has them."""
    flat = flatten({key: value for key, value in document.items() if key != MARK})
    found = []
    for path, node in walk(config):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            if (dataclasses.is_dataclass(value) and not isinstance(value, type)) or value == default:
                continue
            key = f"{path}.{field.name}" if path else field.name
            found += [
                f"{name}={show(saved)}" for name, saved in flat.items() if name == key or name.startswith(f"{key}.")
            ]
    return found


def curve_panels(rows: Sequence[Row], run: ReportedRun, verdict: OverfitVerdict) -> list[Panel]:
    """The losses; and the metric that chose the best weights, where that is another."""
    results, turn = run.results, verdict.turning_point
    mark = None if turn is None else ("turning point", turn)
    losses = [
        series_of(rows, "train/loss", "training, as it went", faint=True),
        series_of(rows, "train_eval/loss", "training samples, measured"),
        series_of(rows, "val/loss", "validation"),
    ]
    optimum = None if results.optimal_loss is None else ("optimum", results.optimal_loss)
    panels = [Panel("loss", losses, optimum, mark)]
    metric, _ = watched_metric(run.config.trainer.early_stopping, run.config.task)
    if metric != "loss":
        lines = [
            series_of(rows, f"train_eval/{metric}", "training samples, measured"),
            series_of(rows, f"val/{metric}", "validation"),
        ]
        known = results.optimal_accuracy if metric == "accuracy" else None
        panels.append(Panel(metric.replace("_", " "), lines, None if known is None else ("optimum", known), mark))
    return panels


def results_blocks(results: Results) -> Iterator[Block]:
    """The table of results, and sentences on the distance from the baselines and from the optimum."""
    yield Heading("Results")
    header, rows = result_rows(results)
    yield Table([" ".join(cell.split()) for cell in header], rows)
    for column in results.columns[-1:]:
        gain = gain_over_baseline(column.metrics)
        if gain:
            metric, baseline, better = gain
            words = "better than" if better > 0 else "no better than"
            value, base = number(column.metrics[metric]), number(column.metrics[baseline])
            yield Paragraph(
                f"{column.split} {metric.replace('_', ' ')} {value} is {words} the best simple baseline, "
                f"{baseline.replace('_', ' ')} {base}, by {better:+.4f}."
            )
        if results.optimal_loss is not None and "loss" in column.metrics:
            excess = column.metrics["loss"] - results.optimal_loss
            yield Paragraph(f"{column.split} loss is {excess:+.4f} from {number(results.optimal_loss)}, the optimum.")


def overfit_blocks(verdict: OverfitVerdict) -> Iterator[Block]:
    """The verdict, the gap over time, early stopping, levers."""
    yield Heading("Overfitting")
    yield Paragraph(f"{verdict.sentence[:1].upper()}{verdict.sentence[1:]}.")
    if verdict.early_stop is not None:
        stop = verdict.early_stop
        yield Paragraph(
            f"Early stopping with a patience of {stop.patience} evaluations would have ended the run at step "
            f"{stop.step:,}, with the weights of step {stop.best_step:,}."
        )
    if verdict.levers:
        words = "Levers against it that this run has not pulled"
        if verdict.fit is Fit.unstable:
            words = "What calms it"
        mirror = any("augment" in lever for lever in verdict.levers)
        also = "; augment only by what leaves the class as it is" if mirror else ""
        yield Paragraph(f"{words} (one at a time{also}):")
        yield Listing(verdict.levers, code=True)
    gaps = [gap for gap in verdict.gaps if gap.gap is not None]
    if gaps:
        picked = sorted({round(place * (len(gaps) - 1) / (_MOST_GAPS - 1)) for place in range(_MOST_GAPS)})
        yield Table(
            ["step", "training samples", "validation", "gap"],
            [
                [f"{gaps[place].step:,}", *(number(value or 0.0) for value in (gaps[place].train, gaps[place].val))]
                + [f"{gaps[place].gap:+.4f}"]
                for place in picked
            ],
        )


def audit_blocks(path: Path) -> Iterator[Block]:
    """The content of audit.json, whose fields need not be known: plain facts as points, lists of findings as tables."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    yield Heading("Data audit")
    facts = [f"{key}: {_cell(value)}" for key, value in document.items() if not _is_table(value) and value]
    if facts:
        yield Listing(facts)
    for key, value in document.items():
        if _is_table(value) and key != "examples":
            header = list(dict.fromkeys(name for finding in value for name in finding))
            yield Table(header, [[_cell(finding.get(name, "")) for name in header] for finding in value], text=True)


def cost_blocks(results: Results, flops: float) -> Iterator[Block]:
    """Time, samples, tokens, FLOPs."""
    yield Heading("Cost")
    rows = [["steps", f"{results.steps:,}"], ["time of training", clock(results.train_seconds)]]
    rows.append(["samples", f"{results.samples:,}"])
    if results.tokens is not None:
        rows.append(["tokens", f"{results.tokens:,}"])
    rows.append(["compute", scaled(flops, "FLOP")])
    if results.memory:
        predicted, measured = results.memory
        rows.append(["memory of a step at its peak", f"{memory(predicted)} predicted, {memory(measured)} measured"])
    if results.share_of_peak is not None:
        rows.append(["share of this machine's measured peak", percent(results.share_of_peak)])
    yield Table(["", ""], rows)


def _what_ran(run_dir: Path, run: ReportedRun) -> Iterator[Block]:
    yield Heading("What ran")
    try:
        words = (run_dir / "overrides.txt").read_text().splitlines()
    except OSError:
        words = []
    yield Listing([shlex.join(["bigtrain", *words])], code=True)
    choices = run.document.get(MARK, {}).get("choices", {})
    rows = [[str(group), str(choice)] for group, choice in choices.items()] + [list(fact) for fact in run.facts]
    yield Table(["", ""], rows, text=True)
    changed = changed_settings(run.config, run.document)
    if changed:
        yield Paragraph("Settings that differ from their defaults:")
        yield Listing(changed, code=True)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    elif isinstance(value, list):
        value = ", ".join(_cell(item) for item in value)
    elif isinstance(value, float):
        value = number(value)
    text = str(value)
    return text if len(text) <= _MOST_CELLS else f"{text[: _MOST_CELLS - 1]}…"
