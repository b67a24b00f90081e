"""Curves in text: a braille plot of several rows, and a one-line sparkline. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_BRAILLE = 0x2800
_DOTS = (
    (0x01, 0x02, 0x04, 0x40),
    (0x08, 0x10, 0x20, 0x80),
)  # bit of each dot: [column 0-1][row 0-3 from the top]


def _drawable(value: float) -> bool:
    """Whether a value has a place in a curve: neither nan nor so large that differences overflow."""
    return abs(value) < 1e30


def resample(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: the mean of the drawable ones of each equal stretch, or nan."""
    if len(values) <= count:
        return [value if _drawable(value) else math.nan for value in values]
    means = []
    for index in range(count):
        stretch = values[index * len(values) // count : (index + 1) * len(values) // count]
        finite = [value for value in stretch if _drawable(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def sparkline(values: Sequence[float], width: int, limits: tuple[float, float] | None = None) -> str:
    """One line of bars, lowest value to highest; a value that is not finite leaves a gap.

    `limits`: lowest and highest of several lines that share one scale.
    """
    points = resample(values, width)
    low, high = limits or bounds(points)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] if _drawable(value) else " " for value in points)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest drawable value, never equal; (0, 1) without any."""
    finite = [value for value in values if _drawable(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = max(0.5, abs(low) / 2)  # for a level curve; relative, or it would vanish beside a large value
    return (low, high) if high > low else (low - margin, high + margin)


def braille_plot(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of `width` characters: a connected curve of 2 x 4 dots to a character.

    A short series is stretched over the whole width; values that are not drawable leave gaps.
    """
    columns, rows = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    points = resample(values, columns)
    low, high = bounds(points)

    def row_at(column: int) -> int | None:
        position = column * (len(points) - 1) / (columns - 1) if len(points) > 1 else 0.0
        left = min(int(position), len(points) - 1)
        right = min(left + 1, len(points) - 1)
        value = points[left] + (points[right] - points[left]) * (position - left)
        return round((high - value) / (high - low) * (rows - 1)) if _drawable(value) else None

    previous: int | None = None
    for column in range(columns if points else 0):
        row = row_at(column)
        if row is not None:
            # Fill the jump from the last dot, so that a steep fall reads as a line and not as scattered dots.
            start = row if previous is None else previous + (row > previous) - (row < previous)
            for dot in range(min(start, row), max(start, row) + 1):
                cells[dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
        previous = row
    return ["".join(chr(_BRAILLE + cell) for cell in line) for line in cells]
