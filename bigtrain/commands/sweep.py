"""`bigtrain -m`: many runs from one command line, each a process of its own, with a leaderboard at the end."""

from __future__ import annotations

import shlex
import shutil
from collections import deque
from pathlib import Path

from bigtrain.commands import scaling, search
from bigtrain.config.redact import redact_overrides
from bigtrain.errors import MachineError
from bigtrain.storage import durable
from bigtrain.storage.run_directory import create_run_directory, is_run_directory
from bigtrain.sweep.jobs import Sweep
from bigtrain.sweep.leaderboard import FILE, leaderboard_table, take_finished, write_leaderboard
from bigtrain.sweep.loop import Progress, run_all, say
from bigtrain.sweep.processes import Launcher, ProcessLauncher
from bigtrain.sweep.saved import FILE as WORDS
from bigtrain.sweep.saved import document_of
from bigtrain.sweep.submitted import SubmititLauncher
from bigtrain.sweep.trial import Trial, exit_code_of, trials_of
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.formatting import short_path


def run(sweep: Sweep, debug: bool = False) -> int:
    """Runs all jobs; a failure is shown and the others continue.

    With `sweep=optuna` they are chosen one after the other: commands/search.py. With `sweep=scaling` a law is fitted to
    them at the end: commands/scaling.py.
    Returns 0 if all finished, 75 if it was stopped or a job was preempted, else the exit code of the first job that
    failed. Raises MachineError where the sweep can't be recorded or its jobs can't be submitted.
    """
    if sweep.search is not None:
        return search.run(sweep, sweep.search, debug)
    resumed = sweep.scaling.resumed if sweep.scaling else None
    sweep_dir = resumed or create_run_directory(Path(sweep.output_dir) / sweep.name, "sweeps")
    launcher = _launcher(sweep, sweep_dir, debug)
    trials = trials_of(sweep, sweep_dir)
    if resumed:
        take_finished(trials, sweep_dir)
    with durable.disk_errors(sweep_dir):
        words = redact_overrides(["-m", *sweep.request.plugin_overrides, *sweep.request.overrides])
        durable.replace(sweep_dir / "overrides.txt", "\n".join(words) + "\n")
        if sweep.scaling:
            durable.replace_json(sweep_dir / WORDS, document_of(sweep.request))
    write_leaderboard(sweep_dir, trials)
    count = f"{len(trials)} job{'s' if len(trials) > 1 else ''}"
    done = f", {sum(trial.state == 'finished' for trial in trials)} finished" if resumed else ""
    say(f"sweep of {count}{done}: {short_path(sweep_dir)} (its *.log hold what the jobs print)")
    for note in sweep.notes:
        say(f"note: {note}")
    title = f"sweep of {count}"
    source = _All(trials, sweep_dir)
    with Progress(sweep.heading, lambda: leaderboard_table(title, trials), launcher.at_once == 1) as progress:
        code = run_all(source, launcher, progress)
    source.record()
    _conclude(sweep, sweep_dir, trials, title)
    if sweep.scaling:
        scaling.conclude(sweep, sweep.scaling, sweep_dir, trials)
    return exit_code_of(trials) if code is None else code


def _launcher(sweep: Sweep, sweep_dir: Path, debug: bool) -> Launcher:
    if sweep.launcher.name == "processes":
        at_once = min(int(sweep.launcher.settings["n_jobs"]), len(sweep.jobs))
        return ProcessLauncher(sweep.request, at_once, debug)
    try:
        return SubmititLauncher(sweep, sweep_dir, debug)
    except MachineError:  # no Slurm here: leave nothing behind
        if not (sweep.scaling and sweep.scaling.resumed):
            shutil.rmtree(sweep_dir)
        raise


class _All:
    """Every job of the sweep, in its order."""

    def __init__(self, trials: list[Trial], sweep_dir: Path):
        self._trials, self._sweep_dir = trials, sweep_dir
        self._waiting = deque(trial for trial in trials if trial.state != "finished")

    def take(self, free: int) -> list[Trial]:
        return [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]

    def gives_up(self, trial: Trial) -> bool:
        return False

    def ended(self, trial: Trial) -> None:
        """Nothing depends on it."""

    def left(self) -> bool:
        for trial in self._waiting:
            trial.state = "not started"
        return bool(self._waiting) or any(trial.state in ("preempted", "stopped") for trial in self._trials)

    def record(self) -> None:
        write_leaderboard(self._sweep_dir, self._trials)


def _conclude(sweep: Sweep, sweep_dir: Path, trials: list[Trial], title: str) -> None:
    console = SteadyConsole()
    console.print()
    console.print(leaderboard_table(title, trials))
    path = short_path(sweep_dir)
    lines = [f"leaderboard: {path}/{FILE}", "", "# curves of all jobs, side by side", f"tensorboard --logdir {path}"]
    stopped = [trial for trial in trials if trial.state in ("preempted", "stopped", "killed")]
    cut_short = [trial for trial in stopped if is_run_directory(trial.run_dir)]
    if sweep.scaling and not all(trial.state == "finished" for trial in trials):
        lines += ["", "# go on", shlex.join(["bigtrain", "-m", f"resume={path}", *sweep.request.plugin_overrides])]
    elif cut_short:
        lines += ["", "# go on with a job that was stopped"]
        words = [[f"resume={short_path(trial.run_dir)}", *sweep.request.plugin_overrides] for trial in cut_short]
        lines += [shlex.join(["bigtrain", *row]) for row in words]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
