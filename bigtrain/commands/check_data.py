"""`bigtrain check-data`: the full audit of the data of a training with the same overrides, as a table and files.

The files go to <output_dir>/<name>/audits/<date>_<time>-<4 hex>/: audit.json, and audit.jsonl with a line for each
sample of a finding.
"""

from __future__ import annotations

import json
from pathlib import Path

from bigtrain.commands.audit import AUDIT_FILE, document_of, example_lines, table_of
from bigtrain.commands.init_from import brought_tokenizer
from bigtrain.config.compose import Composed
from bigtrain.config.run import RunConfig
from bigtrain.data.audit.audit import audit, rows_of
from bigtrain.data.base import DataModule
from bigtrain.errors import ConfigError, ExitCode
from bigtrain.registry import DATA
from bigtrain.storage import durable
from bigtrain.storage.run_directory import new_run_path
from bigtrain.tracking.console import SteadyConsole


def run(composed: Composed) -> int:
    """Audits. Returns 3 where more of val or test stands in train than data.audit_limit; else 0."""
    config: RunConfig = composed.config
    if config.trainer.limit_samples is not None or config.trainer.overfit:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "bigtrain check-data audits all samples",
            cause="trainer.limit_samples or trainer.overfit is set",
            fix="leave it out",
        )
    data: DataModule = DATA.entry_of(config.data).load()(config.data, brought_tokenizer(config, None))
    report = audit(data, config.data, near=True)
    console = SteadyConsole(highlight=False, soft_wrap=True)
    console.print(table_of(report))
    for line in (*report.skipped, *example_lines(report)):
        console.print(line, markup=False)
    folder = new_run_path(Path(config.output_dir), f"{config.name}/audits")
    with durable.disk_errors(folder):
        folder.mkdir(parents=True)
        durable.replace(folder / AUDIT_FILE, document_of(report))
        with (folder / "audit.jsonl").open("w", encoding="utf-8") as file:
            for row in rows_of(data, report.offences):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    console.print(f"\n{len(report.offences):,} findings: {folder / 'audit.jsonl'}", markup=False)
    console.print(f"verdict: {report.verdict}", markup=False)
    return ExitCode.DATA if report.verdict == "fail" else ExitCode.OK
