"""Prepared data on disk: arrays and a few facts, built once, then memory-mapped in milliseconds.

An entry is a folder `<root>/<kind>/<key>` with one .npy per array and meta.json; the key names everything the
content depends on, so an entry is never changed, only made or found. It appears whole or not at all: written
under a temporary name, synced, renamed. Two processes that build the same entry at once both succeed and
share one. What the key is made of, and what is in the arrays, is the caller's business. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = 1
_META_LIMIT_BYTES = 64 << 20  # a tokenizer of 50,000 subwords has 2 MB
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Prepared:
    """`meta`: plain JSON types. `arrays`: by name (letters only); memory-mapped when they come from disk."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def fingerprint_of(*parts: Any) -> str:
    """sha256 over JSON values and arrays (dtype, shape and bytes), in hex."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            header, body = (
                [part.dtype.str, *part.shape],
                np.ascontiguousarray(part).reshape(-1).view(np.uint8),
            )
        else:
            header, body = part, np.empty(0, dtype=np.uint8)
        digest.update(json.dumps(header, sort_keys=True).encode() + b"\n")
        digest.update(body.data)
    return digest.hexdigest()


def cache_root(cache_dir: str | None) -> Path | None:
    """`cache_dir`, or bigtrain's folder in the user's cache: $XDG_CACHE_HOME, else ~/.cache.

    None for a user without a home, as in some containers.
    """
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    given = cache_dir or f"{xdg if Path(xdg).is_absolute() else '~/.cache'}/bigtrain"
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return None


def load_or_build(root: Path | None, kind: str, key: str, build: Callable[[], Prepared]) -> Prepared:
    """The entry `key`, from disk if it is there and whole, else built and kept.

    Where it can't be kept (read-only or full disk), one warning is given and the built arrays are used from
    memory.
    """
    found = find(root, kind, key)
    if found is not None:
        return found
    built = build()
    try:
        if root is None:
            raise OSError("this user has no home folder")
        _write(root / kind / key, built)
    except OSError as error:
        warnings.warn(
            f"prepared data can't be kept in {root or 'a cache'} ({error.strerror or error}); it is made "
            "anew at each start. Set data.cache_dir to a folder that can be written.",
            stacklevel=2,
        )
        return built
    return find(root, kind, key) or built


def find(root: Path | None, kind: str, key: str) -> Prepared | None:
    """The entry `key`, if it is on disk and whole."""
    return _load(root / kind / key) if root else None


def _load(entry: Path) -> Prepared | None:
    """None where there is no entry, or one that is not whole: shortened, or of another shape or format."""
    try:
        with (entry / "meta.json").open("rb") as file:
            document = json.loads(file.read(_META_LIMIT_BYTES))
        if document["format"] != _FORMAT:
            return None
        arrays = {}
        for name, (dtype, shape, size) in document["arrays"].items():
            path = entry / f"{name}.npy"
            if not name.isidentifier() or path.stat().st_size != size:
                return None
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            if arrays[name].dtype.str != dtype or list(arrays[name].shape) != shape:
                return None
        return Prepared(document["meta"], arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write(entry: Path, prepared: Prepared) -> None:
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(entry.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=entry.parent))  # 0700
    try:
        layout = {name: _write_array(temporary / f"{name}.npy", array) for name, array in prepared.arrays.items()}
        document = {"format": _FORMAT, "arrays": layout, "meta": prepared.meta}
        with (temporary / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(temporary)
        if entry.exists() and _load(entry) is None:
            shutil.rmtree(entry)
        try:
            temporary.rename(entry)
        except OSError:
            if _load(entry) is None:  # else another process was faster, and its entry is as good as ours
                raise
        _sync_folder(entry.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path: Path, array: np.ndarray) -> list[Any]:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
        return [array.dtype.str, list(array.shape), file.tell()]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """What builds that were killed left behind."""
    for left_over in folder.glob(".tmp-*"):
        if left_over.is_dir() and time.time() - left_over.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left_over, ignore_errors=True)
