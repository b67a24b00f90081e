"""The directory of a run: its name, its lock, its status. Torch-free; chosen once, by the launcher.

<output_dir>/<name>/<date>_<time>-<4 hex>/
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bigtrain.errors import BigtrainError, CheckpointError, MachineError
from bigtrain.storage import durable

_DATE = len("2026-11-28_09-30-00")  # of a run directory's name
RUN_DIR_VARIABLE = "BIGTRAIN_RUN_DIR"
"""In the environment: the directory that a run is to have. Sweeps name it for their jobs, launchers for their ranks."""


def create_run_directory(output_dir: Path, name: str, planned: Path | None = None) -> Path:
    """A new directory that no other run has: `planned`, if that is free. Raises MachineError when it can't be made."""
    chosen = os.environ.pop(RUN_DIR_VARIABLE, "")  # for this run alone, not for what it starts
    with durable.disk_errors(output_dir):
        if chosen:
            path = Path(chosen)
            path.mkdir(parents=True, exist_ok=True)
            if is_run_directory(path):
                fix = f"go on with it: bigtrain resume={path}"
                raise MachineError.of("RUN-EXISTS", f"{path} has a run already", cause=RUN_DIR_VARIABLE, fix=fix)
            return path
        while True:
            path, planned = planned or new_run_path(output_dir, name), None
            try:
                path.mkdir(parents=True)
                for folder in (path.parent, output_dir, output_dir.absolute().parent):
                    durable.sync_folder(folder)
            except FileExistsError:
                if not path.is_dir():
                    raise
                continue
            return path


def new_run_path(output_dir: Path, name: str) -> Path:
    """A name for a run directory: now, and four random digits. RUN_DIR_VARIABLE, where it is set, names another."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    return Path(os.environ.get(RUN_DIR_VARIABLE) or output_dir / name / f"{now}-{secrets.token_hex(2)}")


def is_run_directory(path: Path) -> bool:
    """Whether a run was started here."""
    return (path / "config.yaml").is_file()


def find_latest_run(output_dir: Path) -> Path | None:
    """The run under `output_dir` that was started last and has a checkpoint: by the date in its name, not by file
    times. None without one.
    """
    return next((run for run in _newest_first(output_dir) if has_checkpoint(run)), None)


def find_run_of_name(folder: Path) -> Path | None:
    """What `resume=auto` goes on with: the run that was started last in `<output_dir>/<name>`, with a checkpoint or
    without; with RUN_DIR_VARIABLE the run there, if one has begun. None without one.
    """
    if chosen := os.environ.get(RUN_DIR_VARIABLE):
        return Path(chosen) if is_run_directory(Path(chosen)) else None
    return next(iter(_newest_first(folder.parent, folder.name)), None)


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has saved anything yet."""
    return any(run_dir.glob("checkpoints/step-*/manifest.json"))


def say_latest(word: str, run: Path, output_dir: Path) -> None:
    """Tells which run a word such as resume=latest means, and of newer ones, which have no checkpoint."""
    newest = _newest_first(output_dir)[0]
    passed = "" if newest == run else f" (a newer run, {newest}, has no checkpoint)"
    print(f"{word}: {run}{passed}", file=sys.stderr, flush=True)


def _newest_first(output_dir: Path, name: str = "*") -> list[Path]:
    runs = [path.parent for path in output_dir.glob(f"{name}/*/config.yaml")]
    # By the date in the name; of runs that began in the same second, by what was written last.
    return sorted(runs, key=lambda run: (run.name[:_DATE], (run / "config.yaml").stat().st_mtime_ns), reverse=True)


def require_run_directory(where: str, output_dir: Path) -> Path:
    """The run that `resume=` means: a run directory, or latest, which is said. Raises CheckpointError when there is
    none.
    """
    latest = find_latest_run(output_dir)
    path = latest if where == "latest" else Path(where).expanduser()
    if path is not None and is_run_directory(path):
        if where == "latest":
            say_latest("resume=latest", path, output_dir)
        return path
    fix = f"the newest run is {latest}" if latest else "start one: bigtrain"
    if path is not None and (path / "sweep.json").is_file():
        fix = f"it is a sweep: bigtrain -m resume={path}"
    above = next((folder for folder in (path.parents if path else ()) if (folder / "status.json").is_file()), None)
    if above is not None and is_run_directory(above):
        fix = f"a run goes on from its newest checkpoint: resume={above}; a new run from others: init_from={path}"
    cause = f"{path} has no config.yaml"
    if path is None:
        begun = _newest_first(output_dir)
        cause = f"no run in {output_dir} has a checkpoint yet" if begun else f"{output_dir} holds no run"
        fix = f"start {begun[0]} from its beginning: bigtrain resume={begun[0]}" if begun else fix
    raise CheckpointError.of("RESUME-MISSING", f"resume={where}: there is no run to go on with", cause=cause, fix=fix)


@contextmanager
def removed_unless_begun(run_dir: Path) -> Iterator[None]:
    """Around a new run: where an error of the user's ends it before anything came of it, its directory goes, too."""
    try:
        yield
    except BigtrainError:
        rows = run_dir / "metrics.jsonl"
        if not has_checkpoint(run_dir) and not (rows.is_file() and rows.stat().st_size):
            shutil.rmtree(run_dir, ignore_errors=True)
            with suppress(OSError):  # another run may be there
                run_dir.parent.rmdir()
        raise


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Holds the run directory for this process. Raises MachineError that names the holder when another has it."""
    path = run_dir / ".lock"
    with durable.disk_errors(run_dir):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise MachineError.of(
                "RUN-LOCKED",
                f"{run_dir} is in use",
                cause=f"process {holder} is training in it",
                fix=f"wait for it, stop it (kill {holder}), or start a new run",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(run_dir: Path) -> bool:
    """Whether a process trains in this directory now."""
    try:
        descriptor = os.open(run_dir / ".lock", os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # no run has begun here
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Status:
    """status.json: what a run is doing, for people and programs; replaced atomically."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "status.json"
        try:
            facts = json.loads(self.path.read_text())
        except (OSError, ValueError, RecursionError):
            facts = None
        self._facts: dict[str, Any] = facts if isinstance(facts, dict) else {"started": _now()}

    def get(self, key: str) -> Any:
        """A fact written earlier, or None."""
        return self._facts.get(key)

    def update(self, **facts: Any) -> None:
        """Adds or changes facts."""
        self._facts |= facts | {"updated": _now()}
        with durable.disk_errors(self.path.parent):
            durable.replace_json(self.path, self._facts)


def environment(torch_version: str, device: str, threads: int) -> dict[str, Any]:
    """Facts about this machine for status.json and manifests."""
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch_version,
        "device": device,
        "threads": threads,
        "pid": os.getpid(),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
