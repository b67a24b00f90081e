"""Numbers, times, sizes and paths as people read them. Pure functions; nothing here prints."""

from __future__ import annotations

import math
import os
from pathlib import Path


def number(value: float) -> str:
    """A metric or a rate to about five figures: 1.8342, 0.0123, 0.00123, 4.10e-04, 12,345, nan."""
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e9:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.{4 - math.floor(math.log10(size))}f}"
    return f"{value:.4f}" if size >= 0.01 else f"{value:.5f}"


def scaled(value: float, unit: str = "") -> str:
    """With a metric prefix: 41.2k tok/s, 812k, 3.10G FLOP/s."""
    for factor, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_three_figures(value / factor)}{prefix} {unit}".rstrip()
    return f"{_three_figures(value)} {unit}".rstrip()


def _three_figures(value: float) -> str:
    return f"{value:.0f}" if 99.95 <= abs(value) < math.inf else f"{value:.3g}"


def memory(value: float) -> str:
    """Bytes in binary units: 612 MiB, 1.4 GiB."""
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            size = value / factor
            return f"{size:.1f} {unit}" if size < 10 else f"{size:.0f} {unit}"
    return f"{value:.0f} B"


def clock(seconds: float) -> str:
    """0:38, 12:05, 1:02:03, 2d 04:00."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float) -> str:
    """A share of one: 38%, 4.2%."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def short_path(path: Path | str, start: Path | str | None = None) -> str:
    """`path` relative to `start` (default: the current directory) where that is shorter, else absolute."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - pathlib's resolve() would follow the user's own links
    try:
        relative = os.path.relpath(absolute, start or Path.cwd())
    except (ValueError, OSError):  # another drive; a current directory that is gone
        return absolute
    return relative if len(relative) < len(absolute) else absolute
