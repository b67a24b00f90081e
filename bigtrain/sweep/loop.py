"""The loop of every sweep: jobs are taken, started, looked at and ended, until there are no more or it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, TextIO

from rich.live import Live
from rich.table import Table

from bigtrain.errors import ExitCode
from bigtrain.signals import StopRequest
from bigtrain.sweep.jobs import Job
from bigtrain.sweep.processes import Launched, Launcher
from bigtrain.sweep.trial import Trial
from bigtrain.tracking.console import SteadyConsole, encodable, has_cursor
from bigtrain.tracking.formatting import clock, number

_SECONDS_BETWEEN_LOOKS = 0.05


class Source(Protocol):
    """Where the jobs come from, and who wants to know how they do."""

    def take(self, free: int) -> list[Trial]:
        """Up to `free` jobs to start now; none where no more are to come."""

    def gives_up(self, trial: Trial) -> bool:
        """Whether a running job should save its state and end."""

    def ended(self, trial: Trial) -> None:
        """A job has ended; its outcome is in it."""

    def left(self) -> bool:
        """Whether there is something to do yet, once no job runs."""

    def record(self) -> None:
        """Something has changed: writes it down."""


def run_all(source: Source, launcher: Launcher, progress: Progress) -> ExitCode | None:
    """Starts jobs and waits until all have ended. Returns the exit code of being stopped, or None."""
    running: dict[int, tuple[Trial, Launched]] = {}
    hang_up = signal.getsignal(signal.SIGHUP)
    if hang_up is not signal.SIG_IGN:  # nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with StopRequest() as stop:
            while True:
                free = launcher.at_once - len(running)
                batch = source.take(free) if free and not stop.reason else []
                if batch:
                    progress.started(batch)
                    for trial, launched in zip(batch, launcher.start(batch), strict=True):
                        trial.state = "running"
                        running[trial.job.number] = trial, launched
                    source.record()
                    progress.show()
                if not running:
                    break
                if stop.reason:
                    progress.stopping(stop.reason)
                for trial, launched in list(running.values()):
                    code = launched.poll()
                    if code is None:
                        if stop.reason or source.gives_up(trial):
                            launched.stop()
                        continue
                    del running[trial.job.number]
                    trial.ended(code, launched.seconds)
                    source.ended(trial)
                    source.record()
                    progress.ended(trial)
                if running:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
            return ExitCode.PREEMPTED if stop.reason and source.left() else None
    except KeyboardInterrupt:  # the second Ctrl-C
        for trial, launched in running.values():
            launched.kill()
            trial.state = "killed"
        running.clear()
        source.left()
        return ExitCode.INTERRUPTED
    finally:
        signal.signal(signal.SIGHUP, hang_up)
        for _, launched in running.values():  # none, unless something failed here
            launched.stop()


def say(line: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Prints at once. A reader that has gone stops no job."""
    stream = stream or sys.stdout
    with contextlib.suppress(OSError):
        print(encodable(line, stream), end=end, file=stream, flush=True)


class Progress:
    """One line per job; the next one begins where the last has ended, where jobs run one by one (`one_line`).

    On a terminal the table of all jobs stays below the lines, and says what runs.
    """

    def __init__(self, heading: Callable[[Job], str], table: Callable[[], Table | None], one_line: bool):
        self._heading, self._table = heading, table
        console = SteadyConsole()
        self._live = Live(console=console, auto_refresh=False, transient=True) if has_cursor(sys.stdout) else None
        self._one_line = one_line and self._live is None
        self._stopping = False

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.__exit__(kind, error, at)

    def started(self, trials: Sequence[Trial]) -> None:
        """These are about to start."""
        if self._one_line:
            say(f"{self._heading(trials[0].job)} …", end="")

    def ended(self, trial: Trial) -> None:
        """Says how it did."""
        seconds = f"in {clock(trial.seconds or 0)}"
        words = {"finished": "", "preempted": "state saved, stopped ", "stopped": "stopped before it began "}
        words["pruned"] = f"pruned {trial.note} ".replace("  ", " ")
        if trial.state == "finished" and trial.best is not None:
            words["finished"] = f"{trial.metric} {number(trial.best)} "
        said = words.get(trial.state, f"failed with exit code {trial.exit_code} ")
        self._say(f"{'' if self._one_line else self._heading(trial.job) + ' …'} {said}{seconds}")
        if trial.state == "failed":
            for line in (*trial.error.splitlines(), f"log: {trial.log}"):
                self._say(f"  {line}")
        self.show()

    def stopping(self, reason: str) -> None:
        """Says, once, that it is being stopped."""
        if not self._stopping:
            self._stopping = True
            say(f"\n{reason}: the running jobs save their state, no further one starts", stream=sys.stderr)

    def show(self) -> None:
        """Draws the table as it is now."""
        if self._live is not None and (table := self._table()) is not None:
            with contextlib.suppress(OSError):
                self._live.update(table, refresh=True)

    def _say(self, line: str) -> None:
        if self._live is None:
            say(line)
        else:
            with contextlib.suppress(OSError):
                self._live.console.print(line, soft_wrap=True, highlight=False, markup=False)
