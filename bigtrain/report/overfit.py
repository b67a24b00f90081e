"""Does a run overfit? Pure functions of its logged rows and its settings; no torch, no files.

Each evaluation has the loss of the validation split (`val/loss`) and of a fixed sample of the training split, in
evaluation mode too (`train_eval/loss`). The gap is their difference. The turning point is the lowest validation loss,
if it has risen since by more than 1 % and by more than any earlier rise that it recovered from. If the loss of the
training samples has fallen since the turning point, the run overfits; if that has risen too, it is unstable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bigtrain.config.run import RunConfig
from bigtrain.config.settings import walk
from bigtrain.config.watched import watched_metric
from bigtrain.tracking.formatting import number
from bigtrain.tracking.tracker import Row

USUAL_PATIENCE = 3  # evaluations without a better metric, where the run has no patience of its own
_RISE = 0.01  # of the loss: less is no rise
_GAP = 0.1  # of the validation loss: less is no gap to speak of


class Fit(Enum):
    """The verdict on a run's evaluations."""

    unknown = "unknown"  # too few evaluations
    fits = "fits"
    gap = "gap"  # training samples are known better than others, but validation has not become worse
    overfits = "overfits"
    unstable = "unstable"  # both losses have risen


@dataclass(frozen=True)
class Gap:
    """One evaluation. `train` is None where no training samples were measured."""

    step: int
    val: float
    train: float | None

    @property
    def gap(self) -> float | None:
        """The validation loss less that of the training samples."""
        return None if self.train is None else self.val - self.train


@dataclass(frozen=True)
class Stop:
    """The evaluation at which early stopping would have ended the run, and the best one up to it."""

    patience: int
    step: int
    best_step: int


@dataclass(frozen=True)
class OverfitVerdict:
    """`levers`: overrides of regularising settings that are off in this run; empty where none is needed."""

    fit: Fit
    sentence: str
    gaps: tuple[Gap, ...]
    turning_point: int | None
    early_stop: Stop | None
    levers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.sentence}; not tried yet: {', '.join(self.levers)}" if self.levers else self.sentence


def overfit_verdict(rows: Sequence[Row], config: RunConfig) -> OverfitVerdict:
    """The verdict on a run from its rows and settings."""
    gaps = gaps_of(rows)
    turn = turning_point([gap.val for gap in gaps])
    step = None if turn is None else gaps[turn].step
    patience = config.trainer.early_stopping.patience or USUAL_PATIENCE
    name, higher_is_better = watched_metric(config.trainer.early_stopping, config.task)
    tag = f"val/{name}"
    series = [(int(row["step"]), float(row[tag])) for row in rows if tag in row and _is_evaluation(row)]
    stop = early_stop(series, higher_is_better, patience, config.trainer.early_stopping.min_delta)
    fit = _fit_of(gaps, turn)
    return OverfitVerdict(
        fit, _sentence(fit, gaps, turn), gaps, step, stop, tuple(_levers(fit, config, step, len(gaps)))
    )


def gaps_of(rows: Iterable[Row]) -> tuple[Gap, ...]:
    """Every evaluation of the run that gave a finite validation loss."""
    found = {}
    for row in rows:
        val, train = row.get("val/loss"), row.get("train_eval/loss")
        if val is not None and math.isfinite(val) and _is_evaluation(row):
            measured = None if train is None or not math.isfinite(train) else float(train)
            found[int(row["step"])] = Gap(int(row["step"]), float(val), measured)
    return tuple(found.values())


def turning_point(losses: Sequence[float]) -> int | None:
    """The place of the lowest loss, if the losses have risen since; see the head of this module."""
    if len(losses) < 2:
        return None
    lowest = min(range(len(losses)), key=lambda place: losses[place])
    rise = losses[-1] - losses[lowest]
    recovered, low = 0.0, losses[0]
    for loss in losses[: lowest + 1]:
        low = min(low, loss)
        recovered = max(recovered, loss - low)
    return lowest if rise > max(_RISE * abs(losses[lowest]), recovered) else None


def early_stop(
    series: Sequence[tuple[int, float]], higher_is_better: bool, patience: int, min_delta: float = 0.0
) -> Stop | None:
    """Where `patience` evaluations (step, metric) in a row were not better by more than `min_delta`; None: nowhere."""
    best: tuple[int, float] | None = None
    waited = 0
    for step, value in series:
        if not math.isnan(value) and (best is None or _is_better(value, best[1], higher_is_better, min_delta)):
            best, waited = (step, value), 0
        else:
            waited += 1
        if waited >= patience:
            return Stop(patience, step, step if best is None else best[0])
    return None


def _is_better(value: float, than: float, higher_is_better: bool, by: float) -> bool:
    return value > than + by if higher_is_better else value < than - by


def levers(config: RunConfig, turning_step: int | None = None) -> list[str]:
    """Overrides against overfitting: of settings that these models, data and tasks have, and that are off."""
    found = []
    for path, node in walk(config):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            suggested = _suggestion(path, field.name, value)
            if suggested is not None and not (field.name == "mixup" and node.cutmix):
                found.append(f"{path}.{field.name}={suggested}")
    if turning_step is not None and turning_step > 0:
        found.append(f"trainer.max_duration={turning_step}step")
    return found


_WHEN_OFF = {
    ("model", "dropout"): 0.1,
    ("model", "embedding_dropout"): 0.1,
    ("model", "stochastic_depth"): 0.1,
    ("task", "label_smoothing"): 0.1,
    ("optimizer", "weight_decay"): 0.01,
    ("trainer", "ema_decay"): 0.999,
    ("trainer.early_stopping", "patience"): USUAL_PATIENCE,
    ("data.augment", "crop"): 2,
    ("data.augment", "flip"): "true",
    ("data.augment", "rotate"): 10,
    ("data.augment", "erase"): 0.25,
    ("data.augment", "mixup"): 0.2,
    ("data.augment", "word_dropout"): 0.1,
}


def _suggestion(path: str, name: str, value: Any) -> Any:
    """A value for a setting that regularises and is off; None for any other."""
    return None if value else _WHEN_OFF.get((path, name))


def _is_evaluation(row: Row) -> bool:
    """Whether a row is of an evaluation while training; the last row of a run, of the best weights, is not."""
    return not any(tag.startswith("test/") for tag in row)


def _fit_of(gaps: Sequence[Gap], turn: int | None) -> Fit:
    if len(gaps) < 2:
        return Fit.unknown
    last = gaps[-1]
    if turn is not None:
        before = gaps[turn].train
        if last.train is None or before is None:
            return Fit.overfits
        return Fit.overfits if last.train <= before * (1 + _RISE) else Fit.unstable
    if last.gap is not None and last.gap > _GAP * abs(last.val):
        return Fit.gap
    return Fit.fits


def _sentence(fit: Fit, gaps: Sequence[Gap], turn: int | None) -> str:
    if fit is Fit.unknown:
        return f"too few evaluations to tell ({len(gaps)}); give a shorter trainer.eval_every"
    last = gaps[-1]
    values = f"validation loss {number(last.val)}"
    if last.train is not None:
        values += f", on training samples {number(last.train)}"
    if turn is None:
        falls = last.val == min(gap.val for gap in gaps)
        trend = "validation loss was still falling at the end" if falls else "validation loss has not risen since"
        if fit is Fit.gap:
            return f"a gap, but no overfitting yet: {values}; {trend}"
        unmeasured = "" if last.train is not None else " (training samples were not measured: trainer.eval_train)"
        return f"no overfitting: {values}; {trend}{unmeasured}"
    turned = gaps[turn]
    since = f"validation loss was lowest at step {turned.step:,} ({number(turned.val)}), since then it rose to"
    since += f" {number(last.val)}"
    if fit is Fit.unstable:
        return (
            f"training comes apart after step {turned.step:,}, which is no overfitting: {since}, and that of training "
            f"samples from {number(turned.train or 0.0)} to {number(last.train or 0.0)}"
        )
    if last.train is None or turned.train is None:
        return f"overfitting after step {turned.step:,}: {since}"
    return (
        f"overfitting after step {turned.step:,}: {since}, while that of training samples went from "
        f"{number(turned.train)} to {number(last.train)}"
    )


def _levers(fit: Fit, config: RunConfig, turning_step: int | None, evaluations: int) -> Iterator[str]:
    if fit in (Fit.overfits, Fit.gap):
        for lever in levers(config, turning_step):
            if "patience" not in lever or evaluations > USUAL_PATIENCE:  # with fewer it would never be over
                yield lever
    elif fit is Fit.unstable:
        yield f"optimizer.learning_rate={config.optimizer.learning_rate / 3:.2g}"
        if config.trainer.clip_norm is None:
            yield "trainer.clip_norm=1"
