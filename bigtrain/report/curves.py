"""Curves as a PNG, for the reports of runs and pipelines and for comparisons. matplotlib is imported on first use."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bigtrain.tracking.figures import empty_figure
from bigtrain.tracking.tracker import Row

_COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bc4c00", "#57606a", "#bf3989", "#9a6700")
_MOST_NAMES = 12  # lines that a legend has room for
_MOST_DOTS = 30  # values up to which each is marked


@dataclass(frozen=True)
class Series:
    """A line: one value per step. `faint`: drawn behind the others."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart. `level`: a horizontal line with its name, such as the optimum; `mark`: a vertical one."""

    title: str
    series: Sequence[Series]
    level: tuple[str, float] | None = None
    mark: tuple[str, int] | None = None


def series_of(rows: Iterable[Row], tag: str, label: str = "", faint: bool = False) -> Series:
    """The finite values of a tag."""
    points = {int(row["step"]): float(row[tag]) for row in rows if tag in row and math.isfinite(row[tag])}
    return Series(label or tag, list(points), list(points.values()), faint)


def curves_png(panels: Sequence[Panel]) -> bytes:
    """The panels below each other, as a PNG: steps along the bottom, a logarithmic scale where values span decades.

    A label has the same colour in all of them.
    """
    figure = empty_figure(8, 3.2 * len(panels))
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        axes.set_title(_text(panel.title), fontsize=10, loc="left")
        drawn = [series for series in panel.series if series.values]
        for series in drawn:
            color = _COLORS[labels.index(series.label) % len(_COLORS)]
            width, alpha = (0.8, 0.5) if series.faint else (1.6, 1.0)
            marker = "o" if len(series.values) < _MOST_DOTS else None
            line = {"color": color, "linewidth": width, "alpha": alpha, "marker": marker, "markersize": 3}
            axes.plot(series.steps, series.values, label=_text(series.label), **line)
        if panel.level is not None:
            axes.axhline(panel.level[1], color="#57606a", ls="--", lw=1, label=_text(panel.level[0]))
        if panel.mark is not None:
            axes.axvline(panel.mark[1], color="#bc4c00", ls=":", lw=1.2, label=_text(panel.mark[0]))
        values = [value for series in drawn for value in series.values]
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        if 0 < len(axes.get_legend_handles_labels()[0]) <= _MOST_NAMES:
            axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.tick_params(labelsize=8)
    figure.axes[-1].set_xlabel("step", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _text(text: str) -> str:
    """As it stands: matplotlib reads a pair of dollar signs as mathematics, and hides a name that begins with _."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
