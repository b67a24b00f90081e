"""Notices that a file was written to, or replaced, while it was being read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bigtrain.errors import DataError


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """What is read inside comes from one file in one state. Raises DataError where not, even if what was read is found
    to be damaged; and OSError where there is no file.
    """
    before = _state(path)
    damage: DataError | None = None
    try:
        yield
    except DataError as error:
        damage = error
    if _state(path) != before:
        raise changed_while_read(path, "it was written to, or replaced") from damage
    if damage is not None:
        raise damage


def changed_while_read(path: Path, cause: str) -> DataError:
    """The error for a file that did not keep still."""
    return DataError.of(
        "DATA-CHANGED",
        f"{path} changed while it was being read",
        cause=cause,
        fix="start again when nothing writes to it any more",
    )


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
