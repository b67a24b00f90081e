"""Settings that contradict the length of the training: a warm-up longer than it, a patience that can't run out. No
torch.

Checked twice: when composing, for durations of the same unit, and when the size of the data is known. A typed setting
is an error; one from a file or a default, in a training that was made short, is a warning or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bigtrain.config.durations import parse_duration
from bigtrain.config.run import RunConfig
from bigtrain.errors import Problem

Length = Callable[[str], float | None]
"""A duration → its length, comparable with that of the training; None where it can't be compared (yet)."""


@dataclass(frozen=True)
class Contradiction:
    """What is wrong, whether it is an error when its setting was typed, and whether it is worth a warning otherwise."""

    problem: Problem
    error: bool
    warning: bool


def refused(found: list[Contradiction], typed: frozenset[str]) -> list[Problem]:
    """Those that are errors. `typed`: settings that were set on purpose for this run."""
    return [one.problem for one in found if one.error and one.problem.key in typed]


def told_of(found: list[Contradiction], typed: frozenset[str]) -> list[str]:
    """Those that are warnings, as sentences."""
    return [
        f"{one.problem.message}; {one.problem.fix}"
        for one in found
        if (one.warning or one.problem.key in typed) and not (one.error and one.problem.key in typed)
    ]


def in_its_unit(duration: str) -> Length:
    """Lengths of durations that have the unit of this one, or are a share of it."""
    whole = parse_duration(duration)

    def length(text: str) -> float | None:
        part = parse_duration(text).of(whole)
        return part.amount if part.unit == whole.unit else None

    return length


def find_contradictions(config: RunConfig, length: Length) -> list[Contradiction]:
    """Every setting that asks for more than the training is long."""
    total = length(config.trainer.max_duration)
    if not total:
        return []
    return [*_schedule(config, length, total), *_patience(config, length, total), *_cadences(config, length, total)]


def _schedule(config: RunConfig, length: Length, total: float) -> Iterator[Contradiction]:
    """one_cycle's rise and wsd's decay are fractions of the training; only a warm-up can be longer."""
    whole, warmup = config.trainer.max_duration, config.scheduler.warmup
    rise = length(warmup)
    if rise is None:
        return
    if rise > total:
        message = (
            f"scheduler.warmup is {warmup}, longer than the training (trainer.max_duration is {whole}): the learning "
            f"rate would rise to {total / rise:.0%} of its peak"
        )
        fix = "give a share of the training, scheduler.warmup=5%, or a longer trainer.max_duration"
        problem = Problem("CONFIG-COMBINATION", message, fix=fix, key="scheduler.warmup")
        yield Contradiction(problem, error=True, warning=True)
        return
    fraction = config.scheduler.decay_fraction
    if rise + fraction * total > total * (1 + 1e-9):
        message = (
            f"scheduler.decay_fraction is {fraction:g}, but scheduler.warmup={warmup} leaves only "
            f"{1 - rise / total:.0%} of the training ({whole}) for the decay"
        )
        fix, key = "make one of the two shorter", "scheduler.decay_fraction"
        yield Contradiction(Problem("CONFIG-COMBINATION", message, fix=fix, key=key), error=True, warning=True)


def _patience(config: RunConfig, length: Length, total: float) -> Iterator[Contradiction]:
    patience, every = config.trainer.early_stopping.patience, config.trainer.eval_every
    between = None if every is None else length(every)
    if patience is None or not between or patience * between < total:
        return
    key = "trainer.early_stopping.patience"
    message = (
        f"{key} is {patience} evaluations, one every {every}, which is never over before the "
        f"training is (trainer.max_duration is {config.trainer.max_duration})"
    )
    fix = f"evaluate more often, trainer.eval_every={50 / patience:.2g}%, or give a smaller patience"
    yield Contradiction(Problem("CONFIG-COMBINATION", message, fix=fix, key=key), error=True, warning=False)


def _cadences(config: RunConfig, length: Length, total: float) -> Iterator[Contradiction]:
    """Both come at the end in any case, so nothing is lost."""
    for name, what in (("eval_every", "the validation split is evaluated"), ("save_every", "a checkpoint is written")):
        every = getattr(config.trainer, name)
        between = None if every is None else length(every)
        if between is not None and between > total:
            key = f"trainer.{name}"
            message = f"{key} is {every}, longer than the training ({config.trainer.max_duration})"
            problem = Problem("CONFIG-COMBINATION", message, fix=f"{what} only at its end", key=key)
            yield Contradiction(problem, error=False, warning=False)
