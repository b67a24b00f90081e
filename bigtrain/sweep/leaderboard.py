"""How the jobs of a sweep did: leaderboard.csv for programs, a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from bigtrain.config.watched import at_the_end
from bigtrain.errors import ExitCode
from bigtrain.storage import durable
from bigtrain.sweep.trial import Trial, read_status
from bigtrain.tracking.formatting import clock, number

FILE = "leaderboard.csv"


def write_leaderboard(sweep_dir: Path, trials: Sequence[Trial]) -> None:
    """One row per job, in the order of their numbers; replaced atomically. Raises MachineError.

    Columns: job, state, exit_code, seconds, one per swept key, metric (the name of the one that chose the best
    weights), best (its value), best_step, one per final metric, run_dir.
    """
    keys = list(trials[0].job.swept)
    names = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "state", "exit_code", "seconds", *keys, "metric", "best", "best_step", *names, "run_dir"])
    for trial in trials:
        seconds = None if trial.seconds is None else round(trial.seconds, 1)
        row = [trial.job.number, trial.state, trial.exit_code, seconds, *trial.job.shown().values()]
        row += [trial.metric, trial.best, trial.best_step, *(trial.metrics.get(name) for name in names)]
        writer.writerow([*row, trial.run_dir])
    with durable.disk_errors(sweep_dir):
        durable.replace(sweep_dir / FILE, text.getvalue())


def take_finished(trials: Iterable[Trial], sweep_dir: Path) -> None:
    """Gives the runs that have finished their outcome, with the seconds of the leaderboard that is there."""
    try:
        with (sweep_dir / FILE).open(newline="") as file:
            seconds = {row["job"]: float(row["seconds"] or 0) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError):
        seconds = {}
    for trial in trials:
        if read_status(trial.run_dir).get("state") == "finished":
            trial.ended(int(ExitCode.OK), seconds.get(str(trial.job.number), 0.0))


def leaderboard_table(title: str, trials: Sequence[Trial]) -> Table:
    """Best first where all jobs have one metric in common, else by number; jobs without a result last."""
    ordered = ranked(trials)
    metric = ordered[0].metric
    test = f"test/{at_the_end(metric.partition('/')[2])}"
    has_test = any(test in trial.metrics for trial in trials)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("job", justify="right")
    for key in trials[0].job.shown():
        table.add_column(key)
    for name in (metric or "metric", *([test] if has_test else []), "time"):
        table.add_column(name, justify="right")
    table.add_column("")
    for trial in ordered:
        best = "" if trial.best is None else number(trial.best)
        if trial.best is not None and trial.metric != metric:
            best = f"{trial.metric} {best}"
        tested = [number(trial.metrics[test]) if test in trial.metrics else ""] if has_test else []
        seconds = "" if trial.seconds is None else clock(trial.seconds)
        note = "" if trial.state == "finished" else trial.state
        if trial.state == "failed":
            note += f" ({trial.exit_code})"
        note = f"{note} {trial.note}".strip()
        style = "red" if trial.state == "failed" else None
        table.add_row(str(trial.job.number), *trial.job.shown().values(), best, *tested, seconds, note, style=style)
    return table


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Jobs with a result, by it where all of them have the same metric, then the others; equals by number."""
    trials = list(trials)
    done = [trial for trial in trials if trial.best is not None]
    if len({(trial.metric, trial.higher_is_better) for trial in done}) == 1:
        done.sort(key=_rank)
    return [*done, *(trial for trial in trials if trial.best is None)]


def _rank(trial: Trial) -> tuple[bool, float]:
    best = trial.best
    assert best is not None
    return best != best, -best if trial.higher_is_better else best  # nan last
