"""Durations: how long, or how often: "2000step", "3epoch", "10Mtok", "50ksample", "30min", "5%".

A Duration is a number and a unit. Units of work (step, epoch, sample, token) become optimizer steps once the
data's size and the batch size are known; units of time (s, min, h) stay seconds; a share (%) is one of the whole
training, whatever its unit. Idea from Composer's `Time`.
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
_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_PATTERN = re.compile(_NUMBER + r"\s*(?:([kMB]?)([a-z]+)|%)")


@dataclass(frozen=True)
class Duration:
    """`amount` of `unit`: step, epoch, sample, token, second, or share (0.05 is a twentieth) of the training."""

    amount: float
    unit: str

    @property
    def seconds(self) -> float | None:
        """Length in seconds, or None for a unit of work."""
        return self.amount if self.unit == "second" else None

    def of(self, whole: Duration) -> Duration:
        """A share of `whole` as a duration of its unit; any other duration as it is."""
        return Duration(self.amount * whole.amount, whole.unit) if self.unit == "share" else self

    def steps(self, *, batch_size: float, epoch_samples: int, sample_tokens: float | None) -> int:
        """Optimizer steps, rounded up. Sizes are averages; `sample_tokens` is None where samples have no tokens.

        Raises ValueError for a unit of time, and for tokens of data that has none.
        """
        if self.unit == "step":
            return _steps(self.amount)
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
    if match is None or match[3] not in (None, *_UNITS):
        raise ValueError(
            f"is {str(text)!r}; a duration is a number and a unit, for instance 2000step, 3epoch, 10Mtok, "
            "50ksample, 30min, or 5% of the training"
        )
    if match[3] is None:
        return Duration(float(match[1]) / 100, "share")
    amount, unit = float(match[1]) * _SCALE[match[2]], _UNITS[match[3]]
    if unit in _SECONDS:
        return Duration(amount * _SECONDS[unit], "second")
    return Duration(amount, unit)


def with_unit(text: str, kind: str) -> str:
    """What a number without a unit may have meant, as a duration; "" for what is none. `kind`: see `setting`."""
    if not re.fullmatch(_NUMBER, str(text).strip()):
        return ""
    number = float(text)
    if kind == "time":
        return f"{number:g}min"
    if 0 < number < 1:
        return f"{100 * number:g}%" if kind == "part" else f"{number:g}epoch"
    return f"{number:g}step" if number < 1e6 else f"{number:.0f}step"


def _steps(count: float) -> int:
    """Rounded up; but three epochs of so many batches are no step more, whatever the rounding of the average."""
    return math.ceil(count * (1 - 1e-12))
