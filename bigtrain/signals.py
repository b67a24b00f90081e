"""Stopping at a step's border: a signal or the time limit only sets a flag that the loop looks at.

SIGTERM, SIGUSR1 (Slurm's warning) and the first SIGINT ask for a checkpoint and exit 75; a second SIGINT stops at once
with exit 130.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_REASONS = ("", "trainer.time_limit", *(number.name for number in _SIGNALS))


class StopRequest:
    """Use as a context manager around training; `reason` is why to stop, or empty."""

    def __init__(self, time_limit_seconds: float | None = None):
        self._deadline = None if time_limit_seconds is None else time.monotonic() + time_limit_seconds
        self._signal = ""
        self._interrupts = 0
        self._previous: dict[signal.Signals, object] = {}

    @property
    def reason(self) -> str:
        """Why training should stop at the next border; empty to go on."""
        if self._signal:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "trainer.time_limit"
        return ""

    @property
    def code(self) -> int:
        """The reason as a number, for ranks to agree on by taking the largest; 0 to go on."""
        return _REASONS.index(self.reason)

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt


def reason_of(code: int) -> str:
    """The reason of a `StopRequest.code`."""
    return _REASONS[code]
