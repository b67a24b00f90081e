"""The figure of a scaling law as a PNG: loss against compute with the frontier, and isoFLOP curves. matplotlib is
imported on first use."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from bigtrain.report.scaling import Analysis
from bigtrain.sweep.scaling_law import Cost, Law, optimum
from bigtrain.tracking.figures import empty_figure
from bigtrain.tracking.formatting import scaled

_GREY, _BEST = "#57606a", "#cf222e"
_CURVES = 5  # isoFLOP curves
_POINTS = 200  # of a curve


def scaling_png(analysis: Analysis) -> bytes:
    """Two panels where a size can be recommended; else the measured losses beside the law of the one axis."""
    both = analysis.recommendation is not None
    figure = empty_figure(11 if both else 6, 4.2)
    axes = [figure.add_subplot(1, 2 if both else 1, place) for place in range(1, 3 if both else 2)]
    if both:
        _compute_panel(axes[0], analysis)
        _isoflop_panel(axes[1], analysis)
    else:
        _single_panel(axes[0], analysis)
    for panel in axes:
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_ylabel("validation loss (nat)", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2, which="both")
        panel.tick_params(labelsize=8, which="both")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.legend(fontsize=7, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _compute_panel(axes: Any, analysis: Analysis) -> None:
    """Loss against FLOPs: per size the runs and the law over tokens; over all the frontier, to the budget."""
    law, cost, recommended = analysis.fitted.law, analysis.cost, analysis.recommendation
    assert cost is not None and recommended is not None
    runs = analysis.runs
    sizes = sorted({run.parameters for run in runs})
    for size, color in zip(sizes, _colors(len(sizes)), strict=True):
        same = [run for run in runs if run.parameters == size]
        per_token = same[0].flops / same[0].tokens
        flops = np.geomspace(min(run.flops for run in runs) / 1.5, recommended.flops, _POINTS)
        axes.plot(flops, law.loss(size, flops / per_token), color=color, lw=1, alpha=0.8)
        axes.plot([run.flops for run in same], [run.loss for run in same], "o", ms=4, color=color, label=_of(size))
    flops = np.geomspace(min(run.flops for run in runs), recommended.flops, _POINTS)
    frontier = np.array([_lowest(law, cost, budget)[1] for budget in flops])
    axes.plot(flops, frontier, color="black", lw=1.8, ls="--", label="compute-optimal")
    loss = recommended.loss
    bars = [[loss.value - loss.low], [loss.high - loss.value]]
    axes.errorbar([recommended.flops], [loss.value], bars, fmt="*", ms=11, color=_BEST, label="budget")
    _draw_E(axes, analysis)
    levels = [loss.low, law.E, min(run.loss for run in runs), analysis.optimal_loss or math.inf]
    axes.set_ylim(0.99 * min(levels), 1.01 * max(run.loss for run in runs))
    axes.set_xlabel("training FLOPs", fontsize=9)


def _isoflop_panel(axes: Any, analysis: Analysis) -> None:
    """Loss against N at fixed FLOPs, by the law; dots: where each is lowest."""
    law, cost, recommended = analysis.fitted.law, analysis.cost, analysis.recommendation
    assert cost is not None and recommended is not None
    budgets = np.geomspace(min(run.flops for run in analysis.runs), recommended.flops, _CURVES)
    middles = [_lowest(law, cost, budget)[0] for budget in budgets]
    sizes = np.geomspace(min(middles) / 5, max(middles) * 5, _POINTS)
    for budget, middle, color in zip(budgets, middles, _colors(_CURVES), strict=True):
        near = sizes[(sizes > middle / 30) & (sizes < middle * 30)]
        tokens = budget / (cost.factor * near**cost.exponent)
        axes.plot(near, law.loss(near, tokens), color=color, lw=1.4, label=scaled(budget, "FLOP"))
        axes.plot([middle], [_lowest(law, cost, budget)[1]], "o", ms=5, color=color)
    best = recommended.parameters
    axes.axvspan(best.low, best.high, color=_BEST, alpha=0.08)
    axes.axvline(best.value, color=_BEST, lw=1, label=f"N for the budget: {scaled(best.value)}")
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_ylim(top=1.15 * _lowest(law, cost, budgets[0])[1])
    axes.set_xlabel("parameters N", fontsize=9)


def _single_panel(axes: Any, analysis: Analysis) -> None:
    law, runs = analysis.fitted.law, analysis.runs
    by_size = law.A > 0
    measured = np.array([run.parameters if by_size else run.tokens for run in runs], dtype=np.float64)
    along = np.geomspace(measured.min() / 1.5, measured.max() * 3, _POINTS)
    axes.plot(along, law.loss(along, 1.0) if by_size else law.loss(1.0, along), color="black", lw=1.4, label="law")
    axes.plot(measured, [run.loss for run in runs], "o", ms=4, color=_BEST, label="runs")
    _draw_E(axes, analysis)
    axes.set_ylim(0.97 * min(law.E, min(run.loss for run in runs)), 1.03 * max(run.loss for run in runs))
    axes.set_xlabel("parameters N" if by_size else f"training {analysis.unit}s D", fontsize=9)


def _draw_E(axes: Any, analysis: Analysis) -> None:
    axes.axhline(analysis.fitted.law.E, color=_GREY, lw=1, ls=":", label=f"E = {analysis.fitted.law.E:.4g}")
    if "E" in analysis.law:
        estimate = analysis.law["E"]
        axes.axhspan(max(estimate.low, 1e-9), estimate.high, color=_GREY, alpha=0.12, label="its 95 % interval")
    if analysis.optimal_loss is not None:
        axes.axhline(analysis.optimal_loss, color="#1a7f37", lw=1, label=f"known optimum {analysis.optimal_loss:.4g}")


def _lowest(law: Law, cost: Cost, flops: float) -> tuple[float, float]:
    """(N, loss) of the best size for these FLOPs."""
    parameters, tokens = optimum(law, cost, flops)
    return parameters, float(law.loss(parameters, tokens))


def _of(size: int) -> str:
    return f"N = {scaled(size)}"


def _colors(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.0, 0.85, count))
