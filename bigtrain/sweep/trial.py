"""A job of a sweep, from waiting to its outcome: its run directory, its log, what its status.json says."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.errors import ExitCode
from bigtrain.sweep.jobs import Job, Sweep

_LONGEST_LABEL = 100
_UNUSUAL = re.compile(r"[^\w.+%-]+")  # in a file name
_LOG_BYTES = 64_000  # of the end of a log, where its error stands


@dataclass
class Trial:
    """A job with its places and, once it has ended, its outcome."""

    job: Job
    run_dir: Path
    log: Path
    # running; finished, failed, pruned, preempted (saved), stopped (too early), killed; not started
    state: str = "waiting"
    exit_code: int | None = None
    seconds: float | None = None
    metric: str = ""  # "val/loss"
    best: float | None = None
    best_step: int | None = None
    higher_is_better: bool = False
    metrics: dict[str, float] = field(default_factory=dict)  # of the best weights: "val/loss", "test/loss", …
    note: str = ""  # after the state, in the table

    def ended(self, exit_code: int, seconds: float) -> None:
        """Takes down the outcome. A negative exit code is a signal's, as subprocess has it."""
        self.exit_code = exit_code if exit_code >= 0 else 128 - exit_code
        self.seconds = seconds
        status = read_status(self.run_dir)
        saved = status.get("state") == "preempted"
        words = {int(ExitCode.OK): "finished", int(ExitCode.PREEMPTED): "preempted" if saved else "stopped"}
        self.state = words.get(exit_code, "failed")
        best, metrics = status.get("best"), status.get("metrics")
        if self.state == "finished" and isinstance(best, dict):
            self.metric = str(best.get("name") or "")
            self.best, self.best_step = _number(best.get("metric")), best.get("step")
            self.higher_is_better = best.get("higher_is_better") is True
        if isinstance(metrics, dict):
            self.metrics = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}

    @property
    def error(self) -> str:
        """The error block at the end of its log, or the log's last lines."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        # Problems follow each other, each with indented lines. Of several such blocks the last one is meant.
        blocks = [list(group) for is_error, group in itertools.groupby(lines, _of_error) if is_error]
        blocks = [block for block in blocks if any(line.startswith("error[") for line in block)]
        if not blocks:
            return "\n".join(lines[-5:])
        return "\n".join(itertools.dropwhile(lambda line: not line.startswith("error["), blocks[-1]))


def trials_of(sweep: Sweep, sweep_dir: Path) -> list[Trial]:
    """Every job with its run directory and log under `sweep_dir`, named so that they read well in TensorBoard."""
    width = len(str(len(sweep.jobs)))
    return [trial_of(job, sweep_dir, width) for job in sweep.jobs]


def trial_of(job: Job, sweep_dir: Path, width: int) -> Trial:
    """A job with its run directory and log; `width`: of its number there, in digits."""
    label = f"{job.number:0{width}d}{_label(job)}"
    return Trial(job, sweep_dir / label, sweep_dir / f"{label}.log")


def read_status(run_dir: Path) -> dict[str, Any]:
    """The status.json of a run; empty where there is none."""
    try:
        status = json.loads((run_dir / "status.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


def exit_code_of(trials: list[Trial]) -> int:
    """That of the sweep: of the first job that failed; 75 where some were preempted and none failed; else 0."""
    codes = [trial.exit_code for trial in trials if trial.exit_code is not None]
    failed = [code for code in codes if code not in (ExitCode.OK, ExitCode.PREEMPTED)]
    return failed[0] if failed else max(codes, default=ExitCode.OK)


def _label(job: Job) -> str:
    """,learning_rate=1e-3,model=cnn"""
    plain = {key: _UNUSUAL.sub("-", value) for key, value in job.shown().items()}
    return "".join(f",{key}={value}" for key, value in plain.items())[:_LONGEST_LABEL]


def _of_error(line: str) -> bool:
    return line.startswith(("error[", "  "))


def _number(value: Any) -> float | None:
    """A metric of status.json; "nan" and "inf" are written as words there."""
    if isinstance(value, str) and value.lower().lstrip("-+") in ("nan", "inf", "infinity"):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
