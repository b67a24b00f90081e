"""`bigtrain -m`: many runs from one command line, each a process of its own, with a leaderboard at the end."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from bigtrain.config.multirun import Sweep
from bigtrain.config.redact import redact_words
from bigtrain.errors import ExitCode, MachineError
from bigtrain.sweep.leaderboard import FILE, leaderboard_table, write_leaderboard
from bigtrain.sweep.outcome import Trial, exit_code_of, trials_of
from bigtrain.sweep.processes import Launched, Launcher, ProcessLauncher
from bigtrain.sweep.submitted import SubmititLauncher
from bigtrain.tracking.console import SteadyConsole, encodable
from bigtrain.tracking.formatting import clock, number, short_path
from bigtrain.training import durable
from bigtrain.training.run_directory import create_run_directory, is_run_directory
from bigtrain.training.signals import StopRequest

_SECONDS_BETWEEN_LOOKS = 0.05


def run(sweep: Sweep, debug: bool = False) -> int:
    """Runs all jobs; a failure is shown and the others go on.

    Returns 0 if all finished, 75 if it was stopped or a job was preempted, else the exit code of the first job that
    failed. Raises MachineError where the sweep can't be recorded or its jobs can't be submitted.
    """
    sweep_dir = create_run_directory(Path(sweep.output_dir) / sweep.name, "sweeps")
    launcher = _launcher(sweep, sweep_dir, debug)
    trials = trials_of(sweep, sweep_dir)
    with durable.disk_errors(sweep_dir):
        words = redact_words(["-m", *sweep.request.plugin_words, *sweep.request.words])
        durable.replace(sweep_dir / "overrides.txt", "\n".join(words) + "\n")
    write_leaderboard(sweep_dir, trials)
    count = f"{len(trials)} job{'s' if len(trials) > 1 else ''}"
    _say(f"sweep of {count}: {short_path(sweep_dir)} (its *.log hold what the jobs print)")
    for note in sweep.notes:
        _say(f"note: {note}")
    progress = _Progress(sweep, one_line=launcher.at_once == 1)
    code = _run_all(trials, launcher, sweep_dir, progress)
    write_leaderboard(sweep_dir, trials)
    _conclude(sweep, sweep_dir, trials, count)
    return exit_code_of(trials) if code is None else code


def _launcher(sweep: Sweep, sweep_dir: Path, debug: bool) -> Launcher:
    if sweep.launcher.name == "processes":
        return ProcessLauncher(sweep, debug)
    try:
        return SubmititLauncher(sweep, sweep_dir, debug)
    except MachineError:  # no Slurm here: leave nothing behind
        shutil.rmtree(sweep_dir)
        raise


def _run_all(trials: list[Trial], launcher: Launcher, sweep_dir: Path, progress: _Progress) -> ExitCode | None:
    """Starts and waits until all have ended. Returns the exit code of being stopped, or None."""
    waiting = deque(trials)
    running: dict[int, tuple[Trial, Launched]] = {}
    hang_up = signal.getsignal(signal.SIGHUP)
    if hang_up is not signal.SIG_IGN:  # nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with StopRequest() as stop:
            while (waiting and not stop.reason) or running:
                free = 0 if stop.reason else launcher.at_once - len(running)
                batch = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                if batch:
                    progress.started(batch)
                    for trial, launched in zip(batch, launcher.start(batch), strict=True):
                        trial.state = "running"
                        running[trial.job.number] = trial, launched
                    write_leaderboard(sweep_dir, trials)
                if stop.reason:
                    progress.stopping(stop.reason)
                    for _, launched in running.values():
                        launched.stop()
                for trial, launched in list(running.values()):
                    code = launched.poll()
                    if code is not None:
                        del running[trial.job.number]
                        trial.ended(code, launched.seconds)
                        write_leaderboard(sweep_dir, trials)
                        progress.ended(trial)
                if running:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
            cut_short = waiting or any(trial.state in ("preempted", "stopped") for trial in trials)
            return ExitCode.PREEMPTED if stop.reason and cut_short else None
    except KeyboardInterrupt:  # the second Ctrl-C
        for trial, launched in running.values():
            launched.kill()
            trial.state = "killed"
        running.clear()
        return ExitCode.INTERRUPTED
    finally:
        for trial in waiting:
            trial.state = "not started"
        signal.signal(signal.SIGHUP, hang_up)
        for _, launched in running.values():  # none, unless something failed here
            launched.stop()


def _say(line: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Prints at once. A reader that has gone stops no job."""
    stream = stream or sys.stdout
    with contextlib.suppress(OSError):
        print(encodable(line, stream), end=end, file=stream, flush=True)


class _Progress:
    """One line per job; the next one begins where the last has ended, where jobs run one by one."""

    def __init__(self, sweep: Sweep, one_line: bool):
        self._sweep = sweep
        self._one_line = one_line
        self._stopping = False

    def started(self, trials: list[Trial]) -> None:
        if self._one_line:
            _say(f"{self._sweep.heading(trials[0].job)} …", end="")

    def ended(self, trial: Trial) -> None:
        seconds = f"in {clock(trial.seconds or 0)}"
        words = {"finished": "", "preempted": "state saved, stopped ", "stopped": "stopped before it began "}
        if trial.state == "finished" and trial.best is not None:
            words["finished"] = f"{trial.metric} {number(trial.best)} "
        said = words.get(trial.state, f"failed with exit code {trial.exit_code} ")
        _say(f"{'' if self._one_line else self._sweep.heading(trial.job) + ' …'} {said}{seconds}")
        if trial.state == "failed":
            for line in (*trial.error.splitlines(), f"log: {trial.log}"):
                _say(f"  {line}")

    def stopping(self, reason: str) -> None:
        if not self._stopping:
            self._stopping = True
            _say(f"\n{reason}: the running jobs save their state, no further one starts", stream=sys.stderr)


def _conclude(sweep: Sweep, sweep_dir: Path, trials: list[Trial], count: str) -> None:
    console = SteadyConsole()
    console.print()
    console.print(leaderboard_table(f"sweep of {count}", trials))
    path = short_path(sweep_dir)
    lines = [f"leaderboard: {path}/{FILE}", "", "# curves of all jobs, side by side", f"tensorboard --logdir {path}"]
    stopped = [trial for trial in trials if trial.state in ("preempted", "stopped", "killed")]
    cut_short = [trial for trial in stopped if is_run_directory(trial.run_dir)]
    if cut_short:
        lines += ["", "# go on with a job that was stopped"]
        words = [[f"resume={short_path(trial.run_dir)}", *sweep.request.plugin_words] for trial in cut_short]
        lines += [shlex.join(["bigtrain", *row]) for row in words]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
