"""Notices that a file was written to, or replaced, while it was being read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bigtrain.errors import DataError


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """What is read inside comes from one file in one state. Raises DataError where not, even if what was read is found
    to be damaged; and OSError where there is no file.
    """
    before = facts_of(path.stat())
    damage: DataError | None = None
    try:
        yield
    except DataError as error:
        damage = error
    if facts_of(path.stat()) != before:
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


def facts_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """What differs once a file has been written to or replaced: device, inode, size in bytes, time in nanoseconds."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
