"""Durations: how long, or how often: "2000step", "3epoch", "10Mtok", "50ksample", "30min".

A Duration is a number and a unit. Units of work (step, epoch, sample, token) become optimizer steps once the
data's size and the batch size are known; units of time (s, min, h) stay seconds. Idea from Composer's `Time`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_UNITS = {
    "step": "step",
    "steps": "step",
    "epoch": "epoch",
    "epochs": "epoch",
    "sample": "sample",
    "samples": "sample",
    "tok": "token",
    "token": "token",
    "tokens": "token",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
}
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kMB]?)([a-z]+)")


@dataclass(frozen=True)
class Duration:
    """`amount` of `unit`: step, epoch, sample, token, or seconds."""

    amount: float
    unit: str

    @property
    def seconds(self) -> float | None:
        """Length in seconds, or None for a unit of work."""
        return self.amount if self.unit == "second" else None

    def steps(self, *, batch_size: float, epoch_samples: int, sample_tokens: float | None) -> int:
        """Optimizer steps, rounded up. Sizes are averages; `sample_tokens` is None where samples have no tokens.

        Raises ValueError for a unit of time, and for tokens of data that has none.
        """
        if self.unit == "step":
            return math.ceil(self.amount)
        if self.unit == "epoch":
            return _steps(self.amount * epoch_samples / batch_size)
        if self.unit == "sample":
            return _steps(self.amount / batch_size)
        if self.unit == "token":
            if sample_tokens is None:
                raise ValueError("counts tokens, but this data has none; use step, epoch or sample")
            return _steps(self.amount / (batch_size * sample_tokens))
        raise ValueError("is a time, which can't be turned into steps; use step, epoch, sample or tok")


def parse_duration(text: str) -> Duration:
    """Reads a duration. Raises ValueError with a sentence that says what is allowed."""
    match = _PATTERN.fullmatch(str(text).strip())
    if match is None or match[3] not in _UNITS:
        raise ValueError(
            f"is {str(text)!r}; a duration is a number and a unit, for instance 2000step, 3epoch, 10Mtok, "
            "50ksample, 30min"
        )
    amount, unit = float(match[1]) * _SCALE[match[2]], _UNITS[match[3]]
    if unit in _SECONDS:
        return Duration(amount * _SECONDS[unit], "second")
    return Duration(amount, unit)


def _steps(count: float) -> int:
    """Rounded up; but three epochs of so many batches are no step more, whatever the rounding of the average."""
    return math.ceil(count * (1 - 1e-12))
