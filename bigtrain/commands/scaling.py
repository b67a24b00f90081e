"""The end of `bigtrain -m sweep=scaling`: the law fitted to its runs, printed and written beside their leaderboard."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.table import Table

from bigtrain.report.scaling import Analysis, Estimate, Recommendation, analyse, document_of
from bigtrain.storage import durable
from bigtrain.sweep.jobs import Sweep
from bigtrain.sweep.scaling import Scaling
from bigtrain.sweep.trial import Trial
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.formatting import number, scaled, short_path

FILE, FIGURE = "scaling.json", "scaling.png"


def conclude(sweep: Sweep, scaling: Scaling, sweep_dir: Path, trials: list[Trial]) -> None:
    """Fits, prints and writes scaling.json and scaling.png. Raises MachineError where they can't be written."""
    console = SteadyConsole()
    console.print()
    analysis = analyse(trials, scaling.settings)
    if isinstance(analysis, str):
        console.print(analysis, soft_wrap=True, highlight=False, markup=False)
        return
    from bigtrain.report.scaling_figure import scaling_png

    with durable.disk_errors(sweep_dir):
        durable.replace_json(sweep_dir / FILE, document_of(analysis, scaling.settings))
        durable.replace(sweep_dir / FIGURE, scaling_png(analysis))
    console.print(runs_table(analysis))
    console.print(_formula(analysis), highlight=False, markup=False, style="bold")
    console.print(law_table(analysis))
    path = short_path(sweep_dir)
    for line in (f"law: {path}/{FILE}, {path}/{FIGURE}", *_sentences(analysis, sweep, sweep_dir)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def runs_table(analysis: Analysis) -> Table:
    """Each run with the loss that the law gives it, by size and length."""
    table = _table("runs")
    for name in ("N", f"D ({analysis.unit}s)", "FLOPs", "val/loss", "law", "measured - law"):
        table.add_column(name, justify="right")
    pairs = zip(analysis.runs, analysis.fitted.residuals, strict=True)
    for run, residual in sorted(pairs, key=lambda pair: (pair[0].parameters, pair[0].tokens)):
        law = run.loss / math.exp(residual)
        row = scaled(run.parameters), scaled(run.tokens), f"{run.flops:.2e}", number(run.loss), number(law)
        table.add_row(*row, f"{run.loss - law:+.4f}")
    return table


def _formula(analysis: Analysis) -> str:
    terms = {"A": ("N", " + A / N^alpha"), "B": ("D", " + B / D^beta")}
    fitted = [terms[name] for name in terms if name in analysis.law]
    return f"L({', '.join(of for of, _ in fitted)}) = E{''.join(term for _, term in fitted)}"


def law_table(analysis: Analysis) -> Table:
    """E, A, alpha, B, beta with their 95 % intervals."""
    table = _table("")
    table.add_column("")
    table.add_column("fit", justify="right")
    table.add_column("95 % interval", justify="right")
    if analysis.known_E is not None:
        table.add_row("E", number(analysis.known_E), "known")
    for name, estimate in analysis.law.items():
        table.add_row(name, number(estimate.value), _interval(estimate, number))
    return table


def _sentences(analysis: Analysis, sweep: Sweep, sweep_dir: Path) -> Iterator[str]:
    for note in analysis.notes:
        yield f"note: {note}"
    yield f"noise of a run around the law: {100 * analysis.fitted.noise:.2f} % of its loss"
    if analysis.optimal_loss is not None and "E" in analysis.law:
        estimate = analysis.law["E"]
        inside = "within" if estimate.low <= analysis.optimal_loss <= estimate.high else "OUTSIDE"
        yield f"the data's known optimum, {number(analysis.optimal_loss)}, is {inside} E's interval"
    if analysis.held_out is not None:
        yield _held_out(analysis)
    else:
        yield "no run can be held out: the others would tell no law, so nothing shows how well it extrapolates"
    if analysis.recommendation is not None:
        yield ""
        yield from _recommended(analysis, analysis.recommendation, sweep)
        again = ["bigtrain", "-m", f"resume={short_path(sweep_dir)}", *sweep.request.plugin_overrides]
        budget = f"sweep.budget_flops={10 * analysis.recommendation.flops:.0e}".replace("+", "")
        yield from ("", "# for another budget: the runs are kept", shlex.join([*again, budget]))
    else:
        yield "no size is recommended: that takes a law of both N and D"


def _held_out(analysis: Analysis) -> str:
    held_out = analysis.held_out
    assert held_out is not None
    jobs = " and ".join(map(str, held_out.numbers))
    predicted, measured = held_out.predicted, held_out.measured
    inside = "within" if predicted.low <= measured <= predicted.high else "OUTSIDE"
    return (
        f"held out, the largest run (job {jobs}): predicted {number(predicted.value)} "
        f"({_interval(predicted, number)}), measured {number(measured)}: an error of "
        f"{100 * (predicted.value / measured - 1):+.2f} %, {inside} the interval"
    )


def _recommended(analysis: Analysis, best: Recommendation, sweep: Sweep) -> Iterator[str]:
    unit, cost = analysis.unit, analysis.cost
    assert cost is not None
    largest = max(run.flops for run in analysis.runs)
    yield f"for {best.flops:.3g} FLOPs, {best.flops / largest:.3g} times those of the largest run:"
    yield f"  N {scaled(best.parameters.value)} parameters ({_interval(best.parameters, scaled)})"
    yield f"  D {scaled(best.tokens.value)} {unit}s ({_interval(best.tokens, scaled)})"
    yield f"  loss {number(best.loss.value)} ({_interval(best.loss, number)})"
    yield f"  FLOPs as counted: {cost.factor:.3g} N^{cost.exponent:.3f} per {unit}"
    if unit == "token":
        yield f"  by C = 6 N D: N {scaled(best.by_6ND[0])}, D {scaled(best.by_6ND[1])} {unit}s"
    run, tokens, loss = best.nearest
    job = next(job for job in sweep.jobs if job.number == run.number)
    words = [word for word in job.overrides if word.partition("=")[0] not in ("trainer.max_duration", "seed")]
    ratio = best.parameters.value / run.parameters
    off = "" if 2 / 3 < ratio < 1.5 else f" (N is {ratio:.2g} times that: no run has that size)"
    duration = f"trainer.max_duration={_duration(tokens, unit)}"
    yield ""
    yield f"# the nearest size, N {scaled(run.parameters)}{off}, for that budget: loss {number(loss)}"
    yield shlex.join(["bigtrain", *sweep.request.plugin_overrides, *words, duration])


def _duration(amount: float, unit: str) -> str:
    for scale, prefix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if amount >= scale:
            return f"{float(f'{amount / scale:.3g}'):g}{prefix}{'tok' if unit == 'token' else 'sample'}"
    return f"{round(amount)}{'tok' if unit == 'token' else 'sample'}"


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    return f"{shown(estimate.low)} to {shown(estimate.high)}"


def _table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
