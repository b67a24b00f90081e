"""Checkpoints on disk: a step directory that is complete and verified, or that does not exist.

    checkpoints/step-00001234/  files…  manifest.json (written last)
    checkpoints/latest  checkpoints/best        a step directory's name, as text: hints, not links

Saving writes `.tmp-<step>-<pid>/`, syncs every file and the folder, renames it, syncs the parent, and only then moves
the hints and prunes. Loading believes the manifest alone: sizes and sha256 of every file. There is no pickle: a file is
safetensors or JSON. What the files mean: `training/snapshot.py`.

Where tensors are split over ranks, every rank writes its own files (`shard_files.py`) into the one folder, rank 0 the
rest: the format version is then 2, which earlier versions of bigtrain refuse. Ranks that read a checkpoint verify a
share of its files each.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bigtrain.errors import CheckpointError, printable
from bigtrain.storage import durable
from bigtrain.storage.shard_files import (
    Stoppable,
    files_of,
    is_shard,
    names_of,
    problems_of_shards,
    require_all_here,
    shard_names,
)
from bigtrain.storage.together import ALONE, Ranks, on_first, together

FORMAT_VERSION = 1  # of a checkpoint without shards
SHARDED_FORMAT_VERSION = 2
STEP_NAME = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
_MANIFEST_BYTES = 16 << 20  # of some 30,000 ranks
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
            raise self.broken(f"{MANIFEST} has no {name}")
        return self.manifest[name]

    def facts(self) -> dict[str, Any]:
        """What its manifest says beside its files, as `CheckpointStore.save` was given it."""
        return {name: fact for name, fact in self.manifest.items() if name not in ("format_version", "step", "files")}

    def broken(self, problem: str) -> CheckpointError:
        """The error for something in it that can't be used."""
        return _broken(self.path, problem)

    def has(self, name: str) -> bool:
        """Whether it holds this file, or its shards."""
        return files_of(name, self.manifest["files"])[0] in self.manifest["files"]

    def names(self) -> list[str]:
        """The names of its files, as `has` takes them."""
        return names_of(self.manifest["files"])

    def tensor_files(self, name: str) -> list[Path]:
        """Where the tensors of the file `name` are: in its shards, or in that file."""
        return [self.path / file for file in files_of(name, self.manifest["files"])]


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
        names = (STEP_NAME.fullmatch(path.name) for path in self.root.glob("step-*") if _is_folder(path))
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.root / f"step-{step:08d}"

    def save(
        self, step: int, files: Mapping[str, durable.Content], facts: Mapping[str, Any], ranks: Ranks = ALONE
    ) -> Path:
        """Writes the checkpoint of `step` durably; an existing one is left as it is. `facts` go into the manifest.

        Where tensors are split over `ranks`, each calls this with its own files; rank 0's facts count.

        Raises MachineError, on every rank, when the disk is full or refuses on one of them; earlier checkpoints are
        then intact, nothing is left over.
        """
        final = self.path_of(step)
        sizes = ranks.exchange({name: len(content) for name, content in files.items()})
        needed = int(1.2 * sum(size for files_of_rank in sizes for size in files_of_rank.values()))
        folder = on_first(ranks, lambda: self._begin(final, needed))
        if folder is None:
            return final
        temporary, on_disk = self.root / folder, shard_names(sizes)[ranks.rank]
        named = {on_disk[name]: content for name, content in files.items()}
        try:
            written = together(ranks, lambda stop: self._write(temporary, named, needed, stop))
            on_first(ranks, lambda: self._commit(temporary, final, needed, {"step": step, **facts}, written))
        except BaseException:
            if ranks.rank == 0:
                _remove(temporary)
            raise
        if ranks.rank == 0:
            self._prune()
        return final

    def _begin(self, final: Path, needed: int) -> str | None:
        """Makes the folder to write into; returns its name, or None where the checkpoint is there already."""
        if _is_folder(final):
            return None
        with durable.disk_errors(self.root, lambda: needed):
            durable.require_space(self.root, needed)
            if final.is_symlink() or final.exists():
                raise FileExistsError(errno.EEXIST, "something else is in the way", str(final))
            temporary = self.root / f".tmp-{int(final.name.removeprefix('step-'))}-{os.getpid()}"
            temporary.mkdir(mode=0o700)
            return temporary.name

    def _write(
        self, folder: Path, files: Mapping[str, durable.Content], needed: int, stop: threading.Event
    ) -> dict[str, Any]:
        """Writes this rank's files; returns their entries in the manifest."""
        with durable.disk_errors(self.root, lambda: needed):
            return {
                name: {"bytes": len(content), "sha256": durable.write_new(folder / name, Stoppable(content, stop))}
                for name, content in files.items()
            }

    def _commit(
        self, temporary: Path, final: Path, needed: int, facts: Mapping[str, Any], written: list[dict[str, Any]]
    ) -> None:
        """Makes the folder, into which the ranks have `written` their files, the checkpoint."""
        listing = {name: entry for files in written for name, entry in files.items()}
        version = SHARDED_FORMAT_VERSION if any(map(is_shard, listing)) else FORMAT_VERSION
        manifest = {"format_version": version, **facts, "files": listing}
        with durable.disk_errors(self.root, lambda: needed):
            if len(written) > 1:
                require_all_here(temporary, written)
            durable.write_new(temporary / MANIFEST, json.dumps(manifest, indent=2).encode())
            durable.sync_folder(temporary)
            temporary.rename(final)
            durable.sync_folder(self.root)
            durable.replace(self.root / "latest", final.name + "\n")

    def mark_best(self, step: int) -> None:
        """Points `best` at a saved step."""
        with durable.disk_errors(self.root):
            durable.replace(self.root / "best", self.path_of(step).name + "\n")
        self._prune()

    def best(self) -> Path | None:
        """The directory that `best` points at, unverified; None without one."""
        return follow_hint(self.root / "best")

    def newest(self, set_aside: bool = False, ranks: Ranks = ALONE) -> Checkpoint | None:
        """The newest checkpoint that verifies, with a warning for each that doesn't.

        `set_aside`, for the run's own processes alone, renames those to `.bad-*`. `ranks` that call it together verify
        a share each, and get the same.

        None when there are no checkpoints at all; CheckpointError when there are some and none verifies.
        """
        here = [self.steps(), any(self.root.glob(".bad-*"))] if ranks.rank == 0 else None
        steps, any_bad = ranks.exchange(here)[0]
        for step in steps:
            try:
                return verify(self.path_of(step), ranks)
            except CheckpointError as error:
                if ranks.rank == 0:
                    where = self._set_aside(step) if set_aside else "an older one is used"
                    print(printable(f"warning: {error.problems[0].message}; {where}"), file=sys.stderr)
        if steps or any_bad:
            raise CheckpointError.of(
                "CHECKPOINT-NONE",
                f"{self.root} holds checkpoints, but none is intact",
                cause="each one's bytes differ from its manifest",
                fix="restore the folder from a copy, or start a new run",
            )
        return None

    def _set_aside(self, step: int) -> str:
        aside = self.root / f".bad-{self.path_of(step).name}-{os.getpid()}"
        with durable.disk_errors(self.root):
            self.path_of(step).rename(aside)
        return f"set aside as {aside}"

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
                if hint.is_file() and follow_hint(hint) is None:
                    hint.unlink()
            durable.sync_folder(self.root)

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[self.keep_last :]:
            if self.path_of(step) != best:
                _remove(self.path_of(step))


class _Differs(Exception):  # noqa: N818
    """What differs from the manifest, in words."""


def verify(path: Path, ranks: Ranks = ALONE) -> Checkpoint:
    """Checks every file of a step directory against its manifest, each of `ranks` that call it together a share.

    Raises CheckpointError, on every rank, that names what differs.
    """
    manifest: dict[str, Any] = {}

    def check(_: threading.Event) -> dict[str, str]:
        try:
            text = _manifest_bytes(path)
            manifest.update(_parsed(text))
            for problem in _differences(path, manifest, ranks):
                return {"problem": problem}
            return {"manifest": sha256(text).hexdigest()}
        except _Differs as error:
            return {"problem": str(error)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return {"problem": f"{MANIFEST}: {type(error).__name__}: {error}"}

    reports = together(ranks, check)
    for report in reports:
        if "problem" in report:
            raise _broken(path, report["problem"])
    if any(report != reports[0] for report in reports):
        raise _broken(path, f"not every rank reads the same {MANIFEST}")
    return Checkpoint(path, int(manifest["step"]), manifest)


def _manifest_bytes(path: Path) -> bytes:
    file = path / MANIFEST
    if not file.is_file():
        raise _Differs(f"{MANIFEST} is missing")
    if file.is_symlink() or file.stat().st_size > _MANIFEST_BYTES:
        raise _Differs(f"{MANIFEST} is a link or over {_MANIFEST_BYTES} bytes")
    return file.read_bytes()


def _parsed(text: bytes) -> dict[str, Any]:
    manifest = json.loads(text)
    if (version := manifest["format_version"]) not in (FORMAT_VERSION, SHARDED_FORMAT_VERSION):
        raise _Differs(
            f"its format version is {version}; this bigtrain reads {FORMAT_VERSION} and {SHARDED_FORMAT_VERSION}"
        )
    if not isinstance(manifest["files"], dict) or not isinstance(manifest["step"], int):
        raise TypeError("its files or its step are of another type")
    return manifest  # type: ignore[no-any-return]


def _differences(path: Path, manifest: dict[str, Any], ranks: Ranks) -> Iterator[str]:
    """What differs, in words: of the folder's content on rank 0, of each file on one of the ranks."""
    listed, share = manifest["files"], slice(ranks.rank, None, ranks.size)
    if ranks.rank == 0:
        if path.name.startswith("step-") and path.name != f"step-{int(manifest['step']):08d}":
            yield f"it is named {path.name}, but its manifest is of step {manifest['step']}"
        # Files whose names begin with a dot are a file manager's or a network file system's; nobody reads them.
        present = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} - {MANIFEST}
        for name in sorted(set(listed) ^ present):
            yield f"{name} is missing" if name in listed else f"{name} is not in the manifest"
    for name in list(listed)[share]:
        file, facts = path / name, listed[name]
        if "/" in name or file.is_symlink() or not file.is_file():
            yield f"{name} is not a plain file"
        elif file.stat().st_size != facts["bytes"]:
            yield f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
        elif durable.sha256_of(file) != facts["sha256"]:
            yield f"{name} has other bytes than were written"
    yield from problems_of_shards(path, listed, share)


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError.of(
        "CHECKPOINT-BROKEN",
        f"the checkpoint {path} is not intact: {problem}",
        fix="name another step directory of the same run, or resume the run: it falls back by itself",
    )


def follow_hint(hint: Path) -> Path | None:
    """The step directory that a hint names, if it names an existing one."""
    try:
        name = hint.read_text()[:64].strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = hint.parent / name
    return path if STEP_NAME.fullmatch(name) and path.is_dir() else None


def _is_folder(path: Path) -> bool:
    """A real directory, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)
