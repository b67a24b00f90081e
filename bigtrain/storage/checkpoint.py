"""Checkpoints on disk: a step directory that is complete and verified, or that does not exist.

    checkpoints/step-00001234/  files…  manifest.json (written last)
    checkpoints/latest  checkpoints/best        a step directory's name, as text: hints, not links

Saving writes `.tmp-<step>-<pid>/`, syncs every file and the folder, renames it, syncs the parent, and only then moves
the hints and prunes. Loading believes the manifest alone: sizes and sha256 of every file. There is no pickle: a file is
safetensors or JSON. What the files mean: `training/snapshot.py`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.errors import CheckpointError, printable
from bigtrain.storage import durable

FORMAT_VERSION = 1
_STEP_NAME = re.compile(r"step-(\d{8,})")
_MANIFEST = "manifest.json"
_MANIFEST_BYTES = 1 << 20
_JSON_BYTES = 64 << 20  # a tokenizer with a large vocabulary


@dataclass(frozen=True)
class Checkpoint:
    """A step directory whose manifest was verified."""

    path: Path
    step: int
    manifest: dict[str, Any]

    def read_json(self, name: str) -> Any:
        """One of its JSON files. Raises CheckpointError when it is missing, large beyond reason, or no JSON."""
        try:
            if (self.path / name).stat().st_size > _JSON_BYTES:
                raise ValueError(f"over {_JSON_BYTES} bytes")
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self.broken(f"{name}: {error}") from error

    def fact(self, name: str) -> Any:
        """A fact of its manifest. Raises CheckpointError when it is missing."""
        if name not in self.manifest:
            raise self.broken(f"{_MANIFEST} has no {name}")
        return self.manifest[name]

    def broken(self, problem: str) -> CheckpointError:
        """The error for something in it that can't be used."""
        return _broken(self.path, problem)

    def has(self, name: str) -> bool:
        """Whether it holds this file."""
        return name in self.manifest["files"]


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, root: Path, keep_last: int = 2):
        self.root = root
        self.keep_last = keep_last

    def prepare(self) -> None:
        """Makes the folder, and removes what an interrupted save left. Call once, under the run's lock."""
        with durable.disk_errors(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.sync_folder(self.root.parent)
            for leftover in self.root.glob(".tmp-*"):
                _remove(leftover)

    def steps(self) -> list[int]:
        """Steps that have a directory, newest first, by number and never by time."""
        names = (_STEP_NAME.fullmatch(path.name) for path in self.root.glob("step-*") if _is_folder(path))
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.root / f"step-{step:08d}"

    def save(self, step: int, files: Mapping[str, durable.Content], facts: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of `step` durably; an existing one is left as it is. `facts` go into the manifest.

        Raises MachineError when the disk is full or refuses; earlier checkpoints are then intact, nothing is left over.
        """
        final = self.path_of(step)
        if _is_folder(final):
            return final
        needed = int(1.2 * sum(len(content) for content in files.values()))
        temporary = self.root / f".tmp-{step}-{os.getpid()}"
        with durable.disk_errors(self.root, lambda: needed):
            durable.require_space(self.root, needed)
            if final.is_symlink() or final.exists():
                raise FileExistsError(errno.EEXIST, "something else is in the way", str(final))
            try:
                temporary.mkdir(mode=0o700)
                listing = {
                    name: {"bytes": len(content), "sha256": durable.write_new(temporary / name, content)}
                    for name, content in files.items()
                }
                manifest = {"format_version": FORMAT_VERSION, "step": step, **facts, "files": listing}
                durable.write_new(temporary / _MANIFEST, json.dumps(manifest, indent=2).encode())
                durable.sync_folder(temporary)
                temporary.rename(final)
            except BaseException:
                _remove(temporary)
                raise
            durable.sync_folder(self.root)
            durable.replace(self.root / "latest", final.name + "\n")
        self._prune()
        return final

    def mark_best(self, step: int) -> None:
        """Points `best` at a saved step."""
        with durable.disk_errors(self.root):
            durable.replace(self.root / "best", self.path_of(step).name + "\n")
        self._prune()

    def best(self) -> Path | None:
        """The directory that `best` points at, unverified; None without one."""
        return _follow_hint(self.root / "best")

    def newest(self, set_aside: bool = False) -> Checkpoint | None:
        """The newest checkpoint that verifies, with a warning for each that doesn't.

        `set_aside`, for the run's own process alone, renames those to `.bad-*`.

        None when there are no checkpoints at all; CheckpointError when there are some and none verifies.
        """
        steps = self.steps()
        for step in steps:
            try:
                return verify(self.path_of(step))
            except CheckpointError as error:
                where = "an older one is used"
                if set_aside:
                    aside = self.root / f".bad-{self.path_of(step).name}-{os.getpid()}"
                    with durable.disk_errors(self.root):
                        self.path_of(step).rename(aside)
                    where = f"set aside as {aside}"
                print(printable(f"warning: {error.problems[0].message}; {where}"), file=sys.stderr)
        if steps or any(self.root.glob(".bad-*")):
            raise CheckpointError.of(
                "CHECKPOINT-NONE",
                f"{self.root} holds checkpoints, but none is intact",
                cause="each one's bytes differ from its manifest",
                fix="restore the folder from a copy, or start a new run",
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames later checkpoints to decayed-step-…: the run goes on from this one, and comes by them again."""
        with durable.disk_errors(self.root):
            for later in self.steps():
                if later > step:
                    path = self.path_of(later)
                    aside = path.with_name(f"decayed-{path.name}")
                    _remove(aside)
                    path.rename(aside)
            for hint in (self.root / "best", self.root / "latest"):
                if hint.is_file() and _follow_hint(hint) is None:
                    hint.unlink()
            durable.sync_folder(self.root)

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[self.keep_last :]:
            if self.path_of(step) != best:
                _remove(self.path_of(step))


def verify(path: Path) -> Checkpoint:
    """Checks every file of a step directory against its manifest. Raises CheckpointError that names what differs."""
    try:
        manifest = _read_manifest(path)
        for problem in _differences(path, manifest):
            raise _broken(path, problem)
        return Checkpoint(path, int(manifest["step"]), manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(path, f"{_MANIFEST}: {type(error).__name__}: {error}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    if not file.is_file():
        raise _broken(path, f"{_MANIFEST} is missing")
    if file.is_symlink() or file.stat().st_size > _MANIFEST_BYTES:
        raise _broken(path, f"{_MANIFEST} is a link or over {_MANIFEST_BYTES} bytes")
    manifest = json.loads(file.read_bytes())
    if manifest["format_version"] != FORMAT_VERSION:
        raise _broken(path, f"its format version is {manifest['format_version']}; this bigtrain reads {FORMAT_VERSION}")
    return manifest  # type: ignore[no-any-return]


def _differences(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    if path.name.startswith("step-") and path.name != f"step-{int(manifest['step']):08d}":
        yield f"it is named {path.name}, but its manifest is of step {manifest['step']}"
    listed = manifest["files"]
    # Files whose names begin with a dot are a file manager's or a network file system's; nobody reads them.
    present = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} - {_MANIFEST}
    for name in sorted(set(listed) ^ present):
        yield f"{name} is missing" if name in listed else f"{name} is not in the manifest"
    for name, facts in listed.items():
        file = path / name
        if "/" in name or file.is_symlink() or not file.is_file():
            yield f"{name} is not a plain file"
        elif file.stat().st_size != facts["bytes"]:
            yield f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
        elif durable.sha256_of(file) != facts["sha256"]:
            yield f"{name} has other bytes than were written"


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError.of(
        "CHECKPOINT-BROKEN",
        f"the checkpoint {path} is not intact: {problem}",
        fix="name another step directory of the same run, or resume the run: it falls back by itself",
    )


def find_checkpoint(where: str, newest_run: Path | None = None) -> Checkpoint:
    """The verified checkpoint that `checkpoint=` or `init_from=` means.

    A run directory means its best checkpoint (the newest, if none was marked best); `<run>/checkpoints/best|latest` and
    step directories mean themselves and never fall back; the bare words best and latest mean those of `newest_run`.
    """
    path = Path(where).expanduser()
    if where in ("best", "latest") and not path.exists():
        if newest_run is None:
            raise _nothing_at(where, "no run under the output directory has a checkpoint yet")
        path = newest_run / "checkpoints" / where
    if (path / _MANIFEST).is_file() or _STEP_NAME.fullmatch(path.name):
        if not path.is_dir():
            raise _nothing_at(where, _choices(path.parent))
        return verify(path)
    if path.name in ("best", "latest") and path.parent.is_dir():
        target = _follow_hint(path)
        if target is None:
            raise _nothing_at(where, _choices(path.parent))
        return verify(target)
    root = path if path.name == "checkpoints" else path / "checkpoints"
    if not root.is_dir():
        raise _nothing_at(where, "it is neither a run directory nor a checkpoint")
    store = CheckpointStore(root)
    target = store.best()
    if target is not None:
        return verify(target)
    newest = store.newest()
    if newest is None:
        raise _nothing_at(where, "the run has not saved a checkpoint yet")
    return newest


def _follow_hint(hint: Path) -> Path | None:
    """The step directory that a hint names, if it names an existing one."""
    try:
        name = hint.read_text()[:64].strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = hint.parent / name
    return path if _STEP_NAME.fullmatch(name) and path.is_dir() else None


def _choices(root: Path) -> str:
    names = [path.name for path in sorted(root.glob("step-*"))]
    return f"{root} holds {', '.join(names)}" if names else f"{root} holds no checkpoint"


def _nothing_at(where: str, cause: str) -> CheckpointError:
    return CheckpointError.of(
        "CHECKPOINT-MISSING",
        f"no checkpoint at {where}",
        cause=cause,
        fix="give a run directory (outputs/<name>/<run>), one of its checkpoints/step-…, or latest",
    )


def _is_folder(path: Path) -> bool:
    """A real directory, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)
