"""How a data audit is reported: notes of a training, a table, audit.json. The audit itself is in `data/audit/`."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bigtrain.config.kinds import Audit
from bigtrain.config.run import RunConfig
from bigtrain.data.audit.findings import Report
from bigtrain.data.audit.short import short_audit
from bigtrain.data.base import DataModule
from bigtrain.errors import DataError
from bigtrain.storage import durable
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.tracker import Tracker

AUDIT_FILE = "audit.json"
_STYLES = {"warn": "yellow", "fail": "bold red", "ok": "green", "note": "dim"}
_EXAMPLE_WIDTH = 96  # characters of a text


def audit_before_training(config: RunConfig, data: DataModule) -> Report | None:
    """The short audit; None where the data is not audited. Raises DataError for data.audit=fail and the verdict fail.

    A run on a few samples, or one that validates on its training samples, is not audited.
    """
    if config.trainer.limit_samples is not None or config.trainer.overfit:
        return None
    with status_line("Auditing the data"):
        report = short_audit(data, config.data)
    if report is not None and config.data.audit is Audit.fail and report.verdict == "fail":
        worst = [check for check in report.worries() if check.verdict == "fail"]
        raise DataError.of(
            "DATA-AUDIT",
            f"the data does not pass its audit: {'; '.join(check.sentence(report.unit) for check in worst)}",
            cause=f"data.audit=fail and data.audit_limit={report.limit}",
            fix="bigtrain check-data, with the same words, lists the samples; or data.audit=warn to train all the same",
        )
    return report


def tell(report: Report, run_dir: Path, tracker: Tracker) -> None:
    """Writes audit.json into the run directory, and a note for each finding."""
    with durable.disk_errors(run_dir):
        durable.replace(run_dir / AUDIT_FILE, document_of(report))
    worries = report.in_short()
    for sentence in worries:
        tracker.note(f"data audit: {sentence}", warning=True)
    if worries or not report.checks:
        tracker.note("; ".join((*report.skipped, "data.audit=off says no more of it")))
    output = io.StringIO()
    Console(file=output, width=140, color_system=None).print(table_of(report))
    tracker.text("data/audit", output.getvalue(), 0)


def document_of(report: Report) -> str:
    """The text of audit.json."""
    return json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"


def table_of(report: Report) -> Table:
    """One row for each check that counts samples; the sentences of the other checks are its caption."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in report.sizes.items())
    said = [f"{check.name}: {check.detail}" for check in report.checks if not check.total]
    table = Table(box=box.SIMPLE_HEAD, title=f"audit of {sizes} {report.unit}", caption="\n".join(said))
    table.title_justify = table.caption_justify = "left"
    for name in ("check", "where", "found", "share", "verdict", ""):
        table.add_column(name, justify="right" if name in ("found", "share") else "left", no_wrap=bool(name))
    for check in report.checks:
        if check.total:
            verdict = Text(check.verdict, style=_STYLES[check.verdict])
            table.add_row(check.name, check.where, f"{check.count:,}", f"{check.share:.2%}", verdict, check.detail)
    return table


def example_lines(report: Report) -> list[str]:
    """The first few samples of each kind, with what they are compared with."""
    lines = []
    for one in report.examples:
        alike = f", {one['similarity']:.1%} alike" if one["kind"] == "near" else ""
        lines.append(f"{one['kind']}{alike}")
        for prefix in ("", "other_"):
            place = one.get(f"{prefix}place") or f"{one[f'{prefix}split']} {one[f'{prefix}sample']}"
            label = f" [label {one[f'{prefix}label']}]" if f"{prefix}label" in one else ""
            text = " ".join(one.get(f"{prefix}text", "").split())[:_EXAMPLE_WIDTH]
            lines.append(f"  {place}{label}  {text}".rstrip())
    return lines
