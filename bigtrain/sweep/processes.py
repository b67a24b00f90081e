"""Starting the jobs of a sweep: what a job is, as a command; and as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bigtrain.config.library import Request
from bigtrain.distributed.launch import LAUNCHED, available_cores
from bigtrain.errors import ExitCode
from bigtrain.storage.run_directory import RUN_DIR_VARIABLE, is_locked, is_run_directory
from bigtrain.sweep.trial import Trial


class Launched(Protocol):
    """A job that was started."""

    @property
    def seconds(self) -> float:
        """How long it ran, once it has ended."""

    def poll(self) -> int | None:
        """Its exit code (negative: a signal's), or None while it runs."""

    def stop(self) -> None:
        """Asks it to save its state and end."""

    def kill(self) -> None:
        """Ends it at once."""


class Launcher(Protocol):
    """Starts jobs, up to `at_once` at the same time."""

    at_once: int

    def start(self, trials: Sequence[Trial]) -> list[Launched]:
        """Starts these, in this order."""


def command_of(request: Request, trial: Trial, debug: bool = False, *more: str) -> list[str]:
    """The command of one job: an ordinary `bigtrain train`, or where it has begun already, `resume=` of it.

    `more`: further words for one that has not begun.
    """
    # `python -m` puts the current folder in front of all packages, which the installed command does not.
    safe_path = [] if str(Path.cwd()) in sys.path else ["-P"]
    flags = ["--debug"] if debug else []
    words = [*request.flags, *trial.job.overrides, *more]
    if is_run_directory(trial.run_dir):
        words = [*request.plugin_overrides, f"resume={trial.run_dir}"]
    return [sys.executable, *safe_path, "-m", "bigtrain", "train", *flags, *words]


def job_environment(trial: Trial, at_once: int) -> dict[str, str]:
    """What is added to the environment: the run directory, and a fair share of the cores for jobs side by side."""
    environment = {RUN_DIR_VARIABLE: str(trial.run_dir)}
    if at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, available_cores() // at_once))
    return environment


def start_process(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The command with its output in a file, in a session of its own: Ctrl-C on the terminal does not reach it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


class ProcessLauncher:
    """Processes of this machine, `at_once` at a time."""

    def __init__(self, request: Request, at_once: int, debug: bool = False):
        self.at_once = at_once
        self._request = request
        self._debug = debug

    def start(self, trials: Sequence[Trial]) -> list[Launched]:
        """See Launcher. A run that another process still holds is started once it is let go."""
        return [self._delayed(trial) if is_locked(trial.run_dir) else self._start(trial) for trial in trials]

    def _delayed(self, trial: Trial) -> Launched:
        return _Delayed(trial, self._start)

    def _start(self, trial: Trial) -> Launched:
        environment = {**job_environment(trial, self.at_once), LAUNCHED: str(os.getpid())}
        return _Running(start_process(command_of(self._request, trial, self._debug), trial.log, environment))


class _Delayed:
    """A run whose process outlived the sweep that had started it: it has been asked to save, and is waited for."""

    def __init__(self, trial: Trial, start: Callable[[Trial], Launched]):
        self._trial = trial
        self._start = start
        self._job: Launched | None = None
        self._asked = False

    @property
    def seconds(self) -> float:
        return self._job.seconds if self._job else 0.0

    def poll(self) -> int | None:
        if self._job is None:
            if self._asked:
                return int(ExitCode.PREEMPTED)
            if is_locked(self._trial.run_dir):
                return None
            self._job = self._start(self._trial)
        return self._job.poll()

    def stop(self) -> None:
        self._asked = True
        if self._job is not None:
            self._job.stop()

    def kill(self) -> None:
        self._asked = True
        if self._job is not None:
            self._job.kill()


class _Running:
    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process
        self._started = time.monotonic()
        self._asked = False
        self.seconds = 0.0

    def poll(self) -> int | None:
        code = self._process.poll()
        self.seconds = time.monotonic() - self._started
        # Asked before it had begun to listen: there was nothing to save yet.
        return int(ExitCode.PREEMPTED) if self._asked and code == -signal.SIGTERM else code

    def stop(self) -> None:
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # with what it has started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
