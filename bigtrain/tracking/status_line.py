"""What is being done, said on stderr of whatever takes longer than two seconds.

On a terminal one line that is rewritten, and goes when it is done; elsewhere a plain line, and another each minute.
While a live view is drawn on the terminal, the line stands in it instead (`show_in`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

KEPT = "once; kept for the next start"
PATIENCE_SECONDS = 2.0
_BETWEEN_SECONDS = 0.5
_BETWEEN_LINES_SECONDS = 60.0
_shown: list[str] = []  # what a line is there for: steps inside it have none of their own
_view: list[Callable[[str], None]] = []  # takes the line; "" where it is done


def show_in(view: Callable[[str], None] | None) -> None:
    """From now on what is being done goes to `view` instead of stderr; None: to stderr again."""
    _view[:] = [] if view is None else [view]


@contextmanager
def status_line(what: str, remark: str = KEPT) -> Iterator[Callable[[float], None]]:
    """Gives a function to be called with the fraction done, if that is known; the line appears after two seconds.

    with status_line("Drawing the digits") as report: ... report(0.25)

    `remark`: said with it; "" of what is done at every start.
    """
    if _shown:
        yield lambda fraction: None
        return
    line = _Line(what, f" ({remark})" if remark else "")
    _shown.append(what)
    try:
        yield line.report
    finally:
        _shown.clear()
        line.close()


class _Line:
    """Drawn by a thread of its own, which sleeps until it is time: the step itself may be one long call."""

    def __init__(self, what: str, remark: str):
        self._what, self._remark = what, remark
        self._fraction: float | None = None
        self._started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def report(self, fraction: float) -> None:
        """Takes note; costs nothing."""
        self._fraction = fraction

    def close(self) -> None:
        """Ends the line, and waits until it is gone."""
        self._done.set()
        self._thread.join()

    def _draw(self) -> None:
        if self._done.wait(PATIENCE_SECONDS):
            return
        view = _view[-1] if _view else None
        rewritten = view is not None or (sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown"))
        with suppress(OSError, ValueError):  # nobody reads it any more
            while True:
                if view is not None:
                    view(self._text())
                elif rewritten:
                    print(f"\r\x1b[2K{self._text()}"[:200], end="", file=sys.stderr, flush=True)
                else:
                    print(self._text(), file=sys.stderr, flush=True)
                if self._done.wait(_BETWEEN_SECONDS if rewritten else _BETWEEN_LINES_SECONDS):
                    break
            if view is not None:
                view("")
            elif rewritten:
                print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    def _text(self) -> str:
        seconds = time.monotonic() - self._started
        done = f"{self._fraction:.0%}, " if self._fraction is not None else ""
        return f"{self._what}: {done}{seconds:.0f} s{self._remark}"
