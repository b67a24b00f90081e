"""Prepared data on disk: arrays and a few facts, built once, then memory-mapped in milliseconds.

An entry is a folder `<root>/<kind>/<key>` with one .npy per array and meta.json; the key names everything the
content depends on, so an entry is never changed, only made or found. It appears whole or not at all: written
under a temporary name, synced, renamed. Two processes that build the same entry at once both succeed and
share one. The caller chooses key and arrays. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bigtrain.storage.durable import sync_folder

_FORMAT = 1
_META_LIMIT_BYTES = 64 << 20  # a tokenizer of 50,000 subwords has 2 MB
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Chunked:
    """An array (length,) that is only ever held chunk by chunk; `chunks` gives them all, as often as it is called."""

    dtype: np.dtype
    length: int
    chunks: Callable[[], Iterator[np.ndarray]]

    @property
    def shape(self) -> tuple[int]:
        """As an array's."""
        return (self.length,)


@dataclass(frozen=True)
class Prepared:
    """`meta`: plain JSON types. `arrays`: by name (letters only); memory-mapped when they come from disk.

    `streams`: arrays that may be larger than memory, while they are built; from disk they are arrays like others.
    """

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    streams: dict[str, Chunked] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        """Whether it comes from disk."""
        return all(isinstance(array.base, np.memmap) for array in self.arrays.values())


def fingerprint_of(*parts: Any) -> str:
    """sha256 over JSON values and arrays (dtype, shape and bytes), in hex."""
    digest = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, (np.ndarray, Chunked))
        header = [part.dtype.str, *part.shape] if is_array else part
        digest.update(json.dumps(header, sort_keys=True).encode() + b"\n")
        for chunk in _chunks_of(part) if is_array else ():
            digest.update(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _chunks_of(array: np.ndarray | Chunked) -> Iterator[np.ndarray]:
    return array.chunks() if isinstance(array, Chunked) else iter([array])


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
        return _in_memory(built)
    return find(root, kind, key) or _in_memory(built)


def find(root: Path | None, kind: str, key: str) -> Prepared | None:
    """The entry `key`, if it is on disk and whole."""
    return _load(root / kind / key) if root else None


def _in_memory(built: Prepared) -> Prepared:
    streams = {name: np.concatenate(list(stream.chunks())) for name, stream in built.streams.items()}
    return Prepared(built.meta, built.arrays | streams)


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
    remove_untouched(entry.parent, ".tmp-*", _STALE_SECONDS)  # what builds that were killed left behind
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=entry.parent))  # 0700
    try:
        arrays: dict[str, np.ndarray | Chunked] = {**prepared.arrays, **prepared.streams}
        layout = {name: _write_array(temporary / f"{name}.npy", array) for name, array in arrays.items()}
        document = {"format": _FORMAT, "arrays": layout, "meta": prepared.meta}
        with (temporary / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        if entry.exists() and _load(entry) is None:
            shutil.rmtree(entry)
        try:
            temporary.rename(entry)
        except OSError:
            if _load(entry) is None:  # else another process was faster, and its entry is as good as ours
                raise
        sync_folder(entry.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path: Path, array: np.ndarray | Chunked) -> list[Any]:
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in _chunks_of(array):
            file.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
        return [array.dtype.str, list(array.shape), file.tell()]


def remove_untouched(folder: Path, pattern: str, seconds: float) -> None:
    """Removes the folders in `folder` that match, and that nothing was put into for so long."""
    for found in folder.glob(pattern):
        if found.is_dir() and time.time() - found.stat().st_mtime > seconds:
            shutil.rmtree(found, ignore_errors=True)
