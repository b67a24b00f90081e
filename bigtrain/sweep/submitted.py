"""Starting the jobs of a sweep by submitit, on a Slurm cluster or on this machine.

submitit carries a function and its arguments to the job in a pickle of its own, which only submitit reads. What the
job says in return comes through files: its status.json, its log, and its exit code in `<label>.exit.json`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bigtrain.errors import ExitCode, MachineError
from bigtrain.storage import durable
from bigtrain.sweep.jobs import Sweep
from bigtrain.sweep.processes import Launched, command_of, job_environment, start_process
from bigtrain.sweep.trial import Trial, read_status

_SECONDS_FOR_FILES = 30.0  # how long a network file system may take to show what a job wrote at its end
_LOST = int(ExitCode.ENVIRONMENT)  # killed from outside, and so without a word


def run_job(
    command: list[str], folder: str, log: str, environment: dict[str, str], report: str, max_num_timeout: int
) -> None:
    """Inside the job, in each of its tasks: runs the command, hands on every wish to stop, and writes how it ended.

    A job whose time is over is put in the queue again, up to `max_num_timeout` times. One that saved because Slurm
    asked it to writes nothing: Slurm starts it again, or says that it has ended.
    """
    os.chdir(folder)
    task = int(os.environ.get("SLURM_PROCID", "0"))
    if task:
        log = str(Path(log).with_suffix(f".task{task}.log"))
    wishes = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    process: list[subprocess.Popen[bytes]] = []
    asked = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        for child in process:
            child.terminate()

    # submitit's own handlers would end the job without saving; and Slurm's USR2 may reach the command itself, which
    # does not listen to it and would end: it inherits that the signal is ignored.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    for number in wishes[:-1]:
        signal.signal(number, ask)
    started = time.monotonic()
    process.append(start_process(command, Path(log), environment))
    signal.signal(signal.SIGUSR2, ask)
    if asked:
        process[0].terminate()
    code = process[0].wait()
    if code == ExitCode.PREEMPTED and asked and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        time_is_over = signal.SIGUSR2 in asked
        if not time_is_over or int(os.environ.get("SLURM_RESTART_COUNT", "0")) < max_num_timeout:
            if time_is_over and task == 0:
                _put_in_queue_again()
            raise SystemExit(code)  # submitit would take a return for the job's end
    if task == 0:
        durable.replace_json(Path(report), {"exit_code": code, "seconds": time.monotonic() - started})


def _put_in_queue_again() -> None:
    job, array = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_JOB_ID")
    number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    subprocess.run(["scontrol", "requeue", number], check=True, timeout=60)


class SubmititLauncher:
    """All jobs are handed over at once; submitit and Slurm decide when each one runs."""

    def __init__(self, sweep: Sweep, sweep_dir: Path, debug: bool = False):
        self.at_once = len(sweep.jobs)
        self._sweep = sweep
        self._debug = debug
        self._cluster = sweep.launcher.name.removeprefix("submitit_")
        self._executor = self._make_executor(sweep, sweep_dir)

    def start(self, trials: Sequence[Trial]) -> list[Launched]:
        """See Launcher. Raises MachineError when the jobs can't be submitted."""
        share = self.at_once if self._cluster == "local" else 1
        columns = zip(
            *(
                (
                    # A job may be started again, by Slurm or by itself.
                    command_of(self._sweep.request, trial, self._debug, "resume=auto"),
                    str(Path.cwd()),
                    str(trial.log.absolute()),
                    job_environment(trial, share),
                    str(_report_of(trial).absolute()),
                    int(self._sweep.launcher.settings.get("max_num_timeout") or 0),
                )
                for trial in trials
            ),
            strict=True,
        )
        # Ctrl-C is for us to hand on; a local job would otherwise get it from the terminal, and end without saving.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            jobs = _sentences(lambda: self._executor.map_array(run_job, *columns))
        finally:
            signal.signal(signal.SIGINT, before)
        return [_Submitted(job, trial, self._cluster) for job, trial in zip(jobs, trials, strict=True)]

    def _make_executor(self, sweep: Sweep, sweep_dir: Path) -> Any:
        import submitit

        settings = {"name": "bigtrain", "submitit_folder": str(sweep_dir / ".submitit" / "%j")}
        settings |= {key: value for key, value in sweep.launcher.settings.items() if value is not None}
        folder = Path(settings.pop("submitit_folder"))
        settings.pop("max_num_timeout", None)
        if folder.is_relative_to(sweep_dir):  # what was typed is in the pickles
            (sweep_dir / ".submitit").mkdir(mode=0o700)
        shared = set(submitit.AutoExecutor._typed_parameters())
        own = {key if key in shared else f"{self._cluster}_{key}": value for key, value in settings.items()}

        def make() -> Any:
            executor = submitit.AutoExecutor(folder=folder, cluster=self._cluster)
            executor.update_parameters(**own)
            return executor

        return _sentences(make)


class _Submitted:
    def __init__(self, job: Any, trial: Trial, cluster: str):
        self._job = job
        self._trial = trial
        self._cluster = cluster
        self._done_since: float | None = None
        self._stopped = False
        self.seconds = 0.0

    def poll(self) -> int | None:
        try:
            report = json.loads(_report_of(self._trial).read_text())
            self.seconds = float(report["seconds"])
            return self._as_asked(int(report["exit_code"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if self._stopped and read_status(self._trial.run_dir).get("state") == "preempted":
            return int(ExitCode.PREEMPTED)
        if not self._job.done():
            return None
        # It ended without a word: killed, or the file is still on its way.
        self._done_since = self._done_since or time.monotonic()
        if not self._stopped and time.monotonic() - self._done_since < _SECONDS_FOR_FILES:
            return None
        code = read_status(self._trial.run_dir).get("exit_code")
        return self._as_asked(code if isinstance(code, int) else _LOST)

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self.kill() if self._cluster != "local" else os.kill(int(self._job.job_id), signal.SIGTERM)

    def kill(self) -> None:
        self._job.cancel(check=False)

    def _as_asked(self, code: int) -> int:
        return int(ExitCode.PREEMPTED) if self._stopped and code in (-signal.SIGTERM, _LOST) else code


def _report_of(trial: Trial) -> Path:
    return trial.log.with_suffix(".exit.json")


def _sentences(action: Callable[[], Any]) -> Any:
    """Runs an action of submitit's; whatever it raises becomes a sentence."""
    try:
        return action()
    except Exception as error:  # submitit raises assertions, NameError, RuntimeError, those of sbatch …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fix = "look at the settings under hydra.launcher, and whether sbatch works from here"
        raise MachineError.of("SWEEP-SUBMIT", "the jobs can't be submitted", cause=reason, fix=fix) from error
