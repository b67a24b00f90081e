"""Extending a training that has begun: its learning rate from there on.

`TrainState.lengths` has one entry per extension: the step at which it was made, and the total steps planned before it
(None: a time). Settings and lengths determine the rate at every step, so a run that is killed after its extension
resumes to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bigtrain.config.durations import Duration, parse_duration
from bigtrain.config.kinds import SchedulerConfig
from bigtrain.config.saved import flatten
from bigtrain.optim.schedules import Schedule, laid_out_again
from bigtrain.storage.checkpoint import Checkpoint
from bigtrain.training.cadence import WorkUnits
from bigtrain.training.state import TrainState

_REWARM = 20  # a schedule without warm-up rises again over this fraction (1/20) of the added steps


def planned_duration(checkpoint: Checkpoint, now: str) -> str:
    """The trainer.max_duration that a checkpoint's run had; `now` where that came out of the environment."""
    planned = str(flatten(checkpoint.read_json("config.json")).get("trainer.max_duration", now))
    try:
        parse_duration(planned)
    except ValueError:  # ${oc.env:…}
        return now
    return planned


def record_extension(state: TrainState, checkpoint: Checkpoint, units: WorkUnits, max_duration: str) -> None:
    """Adds an entry to `state.lengths` if the checkpoint's training was planned with another length."""
    planned = units.steps(planned_duration(checkpoint, max_duration))
    if planned != units.steps(max_duration):
        state.lengths.append([state.step, planned])


def lay_out(
    factory: Callable[[Any, int, int | None], Schedule],
    config: SchedulerConfig,
    units: WorkUnits,
    total_steps: int | None,
    lengths: list[list[int | None]],
) -> Schedule:
    """The schedule of settings `config`, with each extension in `lengths`, up to `total_steps`."""

    def warmup(steps: int | None) -> int:
        whole = None if steps is None else Duration(steps, "step")
        return units.steps(config.warmup, whole) or 0

    totals = [*(planned for _, planned in lengths), total_steps]
    first, first_warmup = totals[0], warmup(totals[0])
    if first is None or total_steps is None or config.stable_steps(first_warmup, first) is not None:
        return factory(config, first_warmup, total_steps)  # as if it had been planned so long
    schedule = factory(config, first_warmup, first)
    if not config.needs_total_steps:
        return schedule
    for (start, _), total in zip(lengths, totals[1:], strict=True):
        assert start is not None and total is not None
        added = total - start
        rise = min(warmup(added) or -(-added // _REWARM), max(1, added // 2))
        schedule = laid_out_again(schedule, factory(config, rise, added), start, added)
    return schedule


def rate_ahead(schedule: Schedule, learning_rate: float, start: int, total: int) -> str:
    """What the learning rate does from step `start` on, in a sentence."""
    factors = [schedule(step) for step in range(start, total)]
    top = max(factors)
    highest = [start + place for place, factor in enumerate(factors) if factor == top]
    rates = [f"{learning_rate * factor:.3g}" for factor in (factors[0], top, factors[-1])]
    until = f" until step {highest[-1] + 1:,}" if len(highest) > 1 else ""
    rises = f"goes from {rates[0]} at step {start + 1:,} to {rates[1]} at step {highest[0] + 1:,}"
    if highest[0] == start:
        rises = f"is {rates[1]} at step {start + 1:,}"
    return f"the learning rate {rises}{until and f', stays there{until}'}, and falls to {rates[2]} at step {total:,}"
