"""A status line on stderr for preparing data that takes long. Silent where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 2.0


@contextmanager
def status_line(what: str) -> Iterator[Callable[[float], None]]:
    """Gives a function to be called with the fraction done; the line appears after two seconds.

    with status_line("Drawing the digits") as report: ... report(0.25)
    """
    if not sys.stderr.isatty():
        yield lambda fraction: None
        return
    from rich.console import Console  # 0.1 s that a cached start does not pay
    from rich.status import Status

    status, start, shown = Status(what, console=Console(stderr=True)), time.monotonic(), False

    def report(fraction: float) -> None:
        nonlocal shown
        if time.monotonic() - start < _PATIENCE_SECONDS:
            return
        status.update(f"{what}: {fraction:.0%} (once; kept for the next start)")
        if not shown:
            status.start()
            shown = True

    try:
        yield report
    finally:
        status.stop()
