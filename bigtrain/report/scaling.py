"""What the runs of `sweep=scaling` tell: points from their status.json, the fitted law, the largest run predicted
without it, and the size and tokens for a budget of FLOPs. The maths: sweep/scaling_law.py. No torch, no writing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigtrain.report.runs import read_run
from bigtrain.sweep.scaling import free_parameters
from bigtrain.sweep.scaling_law import SIX_N_D, Cost, Fitted, Runs, fit, fit_cost, interval, optimum
from bigtrain.sweep.settings import ScalingSettings
from bigtrain.sweep.trial import Trial, read_status

VERSION = 1
_BUDGET = 10.0  # times the FLOPs of the largest run
_FEW_EPOCHS = 4.0  # up to which repeated data is about as good as fresh (arXiv:2305.16264)


@dataclass(frozen=True)
class Measured:
    """A finished run. `words`: its swept values; `tokens`: seen in training (samples, of data without tokens)."""

    number: int
    words: Mapping[str, str]
    parameters: int
    tokens: int
    flops: float
    loss: float


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, value: Any, replicates: Any) -> Estimate:
        """From the replicates of a bootstrap."""
        return cls(float(value), *interval(np.asarray(replicates)))


@dataclass(frozen=True)
class HeldOut:
    """The runs of the largest N and D (their mean loss), predicted by a law that was fitted without them."""

    numbers: tuple[int, ...]
    measured: float
    predicted: Estimate  # of a new run: the interval holds its noise too


@dataclass(frozen=True)
class Recommendation:
    """N, D and the loss at a budget, by the FLOPs as counted; the same by C = 6 N D; and the nearest size there is.

    `nearest`: (a measured run of that size, tokens that the budget buys with it, the law's loss).
    """

    flops: float
    parameters: Estimate
    tokens: Estimate
    loss: Estimate
    by_6ND: tuple[float, float]
    nearest: tuple[Measured, float, float]


@dataclass(frozen=True)
class Analysis:
    """`unit`: token or sample; `known_E`: E where it was not fitted; `optimal_loss`: the data's own, where known."""

    runs: tuple[Measured, ...]
    unit: str
    fitted: Fitted
    law: Mapping[str, Estimate]
    known_E: float | None
    optimal_loss: float | None
    cost: Cost | None
    recommendation: Recommendation | None
    held_out: HeldOut | None
    notes: tuple[str, ...]


def measured_runs(trials: Iterable[Trial], parameters: str) -> tuple[list[Measured], str, float | None, list[str]]:
    """The finished runs, the unit of their D, the data's optimal loss where it is known, and sentences to show.

    Of runs with the same N and D that differ in more than their seed only the best setting counts (by its mean over
    seeds): the law is of well-tuned runs.
    """
    trials, found, notes, units, optima, epochs = list(trials), [], [], set(), set(), []
    for trial in trials:
        status = read_status(trial.run_dir)
        count, cost, loss = status.get("parameters"), status.get("cost"), trial.metrics.get("val/loss", math.nan)
        if trial.state != "finished" or not isinstance(count, dict) or not isinstance(cost, dict):
            continue
        if not math.isfinite(loss) or loss <= 0:
            notes.append(f"job {trial.job.number} is left out: its val/loss is {loss}")
            continue
        units.add("token" if cost.get("tokens") else "sample")
        tokens = cost.get("tokens") or cost["samples"]
        words = trial.job.shown()
        found.append(Measured(trial.job.number, words, count[parameters], tokens, float(cost["flops"]), loss))
        if (excess := trial.metrics.get("val/excess")) is not None:
            optima.add(round(loss - excess, 9))
        epochs.append((cost["samples"] / max(1, _train_size(trial)), trial.job.number))
    if len(found) < len(trials):
        notes.append(f"{len(found)} of {len(trials)} runs are fitted: the others have not finished")
    most, job = max(epochs, default=(0.0, 0))
    if most > _FEW_EPOCHS:
        notes.append(
            f"job {job} saw its data {most:.0f} times; the law is of fresh data, and beyond {_FEW_EPOCHS:.0f} epochs "
            "a repetition is worth clearly less (arXiv:2305.16264)"
        )
    best = _best_settings(found)
    if len(best) < len(found):
        notes.append(f"{len(best)} runs are fitted: of each size and length those with its best settings")
    return best, units.pop() if len(units) == 1 else "sample", optima.pop() if len(optima) == 1 else None, notes


def analyse(trials: Iterable[Trial], settings: ScalingSettings) -> Analysis | str:
    """The fit to the finished runs; a sentence where they tell no law."""
    found, unit, optimal_loss, notes = measured_runs(trials, settings.parameters)
    runs = _arrays(found)
    known_E = settings.irreducible_loss
    if not free_parameters(runs.sizes, runs.lengths, len(runs), known_E is not None) and optimal_loss is not None:
        known_E = optimal_loss
        notes.append("E is the data's known optimum: the runs are too few to fit it")
    if not (free := free_parameters(runs.sizes, runs.lengths, len(runs), known_E is not None)):
        return (
            f"no law is fitted: {len(runs)} finished runs of {runs.sizes} sizes and {runs.lengths} lengths; 3 of each "
            "are needed, or 4 of one of them"
        )
    fitted = fit(runs, known_E)
    law = {name: Estimate.of(getattr(fitted.law, name), getattr(fitted.replicates, name)) for name in free}
    cost = fit_cost(runs.parameters, runs.tokens, np.array([run.flops for run in found]))
    recommendation = None
    if cost is not None and {"A", "B"} <= set(free):
        budget = settings.budget_flops or _BUDGET * max(run.flops for run in found)
        recommendation = _recommended(fitted, cost, budget, found)
    return Analysis(
        runs=tuple(found),
        unit=unit,
        fitted=fitted,
        law=law,
        known_E=known_E,
        optimal_loss=optimal_loss,
        cost=cost,
        recommendation=recommendation,
        held_out=_held_out(runs, found, known_E),
        notes=tuple(notes),
    )


def document_of(analysis: Analysis, settings: ScalingSettings) -> dict[str, Any]:
    """What scaling.json holds."""
    plain = analysis.recommendation
    recommended = plain and {
        "budget_flops": plain.flops,
        "parameters": vars(plain.parameters),
        f"{analysis.unit}s": vars(plain.tokens),
        "loss": vars(plain.loss),
        "by_6ND": dict(zip(("parameters", f"{analysis.unit}s"), plain.by_6ND, strict=True)),
    }
    held_out = analysis.held_out
    return {
        "version": VERSION,
        "law": analysis.fitted.law._asdict(),
        "fitted": {name: vars(estimate) for name, estimate in analysis.law.items()},
        "noise": analysis.fitted.noise,
        "optimal_loss": analysis.optimal_loss,
        "N": settings.parameters,
        "D": f"{analysis.unit}s",
        "flops_per_D": analysis.cost and analysis.cost._asdict(),
        "recommended": recommended,
        "held_out": held_out
        and {"jobs": held_out.numbers, "measured": held_out.measured, "predicted": vars(held_out.predicted)},
        "runs": [
            {"job": run.number, "swept": dict(run.words), "N": run.parameters, "D": run.tokens, "flops": run.flops}
            | {"loss": run.loss, "residual": float(residual)}
            for run, residual in zip(analysis.runs, analysis.fitted.residuals, strict=True)
        ],
        "notes": analysis.notes,
    }


def _arrays(runs: Iterable[Measured]) -> Runs:
    rows = np.array([(run.parameters, run.tokens, run.loss) for run in runs], dtype=np.float64).reshape(-1, 3)
    return Runs(*rows.T)


def _train_size(trial: Trial) -> float:
    """Samples of the training split; inf where they are not known."""
    sizes = (read_run(trial.run_dir).data or {}).get("sizes")
    return float(sizes["train"]) if isinstance(sizes, dict) and sizes.get("train") else math.inf


def _best_settings(runs: list[Measured]) -> list[Measured]:
    by_settings: dict[tuple[int, int], dict[tuple[Any, ...], list[Measured]]] = {}
    for run in runs:
        settings = tuple((key, value) for key, value in run.words.items() if key != "seed")
        by_settings.setdefault((run.parameters, run.tokens), {}).setdefault(settings, []).append(run)
    return [
        run
        for options in by_settings.values()
        for run in min(options.values(), key=lambda same: sum(run.loss for run in same) / len(same))
    ]


def _held_out(runs: Runs, found: list[Measured], known_E: float | None) -> HeldOut | None:
    """None where the others tell no law."""
    largest = max(found, key=lambda run: run.flops)
    mask = (runs.parameters == largest.parameters) & (runs.tokens == largest.tokens)
    others = runs.without(mask)
    if not free_parameters(others.sizes, others.lengths, len(others), known_E is not None):
        return None
    fitted = fit(others, known_E)
    new_runs = fitted.new_runs(largest.parameters, largest.tokens, int(mask.sum()))
    predicted = Estimate.of(fitted.law.loss(largest.parameters, largest.tokens), new_runs)
    numbers = tuple(run.number for run, left_out in zip(found, mask, strict=True) if left_out)
    return HeldOut(numbers, float(runs.loss[mask].mean()), predicted)


def _recommended(fitted: Fitted, cost: Cost, budget: float, found: list[Measured]) -> Recommendation:
    law, many = fitted.law, fitted.replicates
    parameters, tokens = optimum(law, cost, budget)
    each_n, each_d = optimum(many, cost, budget)
    nearest = min(found, key=lambda run: abs(math.log(run.parameters / parameters)))
    affordable = budget * nearest.tokens / nearest.flops
    return Recommendation(
        flops=budget,
        parameters=Estimate.of(parameters, each_n),
        tokens=Estimate.of(tokens, each_d),
        loss=Estimate.of(law.loss(parameters, tokens), many.loss(parameters, tokens)),
        by_6ND=optimum(law, SIX_N_D, budget),
        nearest=(nearest, affordable, float(law.loss(nearest.parameters, affordable))),
    )
