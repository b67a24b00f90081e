"""A status line on stderr for preparing data that takes long. Silent where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 2.0
_BETWEEN_SECONDS = 0.1  # a report may come for every document; drawing one takes 0.1 ms
_shown: set[str] = set()  # what a line is there for: steps inside it have none of their own


@contextmanager
def status_line(what: str) -> Iterator[Callable[[float], None]]:
    """Gives a function to be called with the fraction done; the line appears after two seconds.

    with status_line("Drawing the digits") as report: ... report(0.25)
    """
    if _shown or not sys.stderr.isatty():
        yield lambda fraction: None
        return
    from rich.console import Console  # 0.1 s that a cached start does not pay
    from rich.status import Status

    status, next_time = Status(what, console=Console(stderr=True)), time.monotonic() + _PATIENCE_SECONDS

    def report(fraction: float) -> None:
        nonlocal next_time
        now = time.monotonic()
        if now < next_time:
            return
        next_time = now + _BETWEEN_SECONDS
        status.update(f"{what}: {fraction:.0%} (once; kept for the next start)")
        status.start()  # has no effect the second time

    _shown.add(what)
    try:
        yield report
    finally:
        _shown.clear()
        status.stop()
