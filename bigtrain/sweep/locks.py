"""Locks that the kernel lifts when their holder dies, so that nothing is left locked after a kill."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bigtrain.storage import durable


def try_lock(path: Path) -> int | None:
    """The open file that holds the lock until it is closed; None where another process holds it."""
    with durable.disk_errors(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock, and holds it."""
    with durable.disk_errors(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class JournalLock:
    """What optuna's journal is written under. A line that a full disk or a power cut has torn is cut off first.

    optuna's own lock is a link that a killed process leaves behind, and that others wait 30 s for.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock."""
        descriptor = os.open(f"{self._journal}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Lets it go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _cut_torn_line(journal: Path) -> None:
    with journal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
