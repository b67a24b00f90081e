"""A run whose length was changed: whether there is anything left to train, and from which of its checkpoints.

The learning rate of a longer training is in `training/extension.py`.
"""

from __future__ import annotations

from pathlib import Path

from bigtrain.build import Parts
from bigtrain.config.durations import Duration
from bigtrain.config.resume import length_problem
from bigtrain.config.run import RunConfig
from bigtrain.distributed.world import World
from bigtrain.errors import CheckpointError, ConfigError
from bigtrain.storage.checkpoint import Checkpoint, CheckpointStore, verify
from bigtrain.training.extension import planned_duration
from bigtrain.training.snapshot import read_state


def nothing_left(config: RunConfig, checkpoint: Checkpoint, parts: Parts) -> str:
    """Why a finished run has nothing to train in its new length, in words; "" where it has."""
    state, units, trainer = read_state(checkpoint), parts.units, config.trainer
    steps, seconds = units.steps(trainer.max_duration), units.seconds(trainer.max_duration)
    if state.step >= steps if steps is not None else state.train_seconds >= (seconds or 0.0):
        return f"it has trained {state.step:,} steps, and trainer.max_duration={trainer.max_duration} asks for no more"
    waited, patience = state.evaluations_without_better, trainer.early_stopping.patience
    if patience is not None and waited >= patience:
        return (
            f"it was stopped early, after {waited} evaluations without a better metric; to train on, give a longer "
            f"patience, too: trainer.early_stopping.patience={2 * patience}, or null"
        )
    return ""


def extended_from(
    config: RunConfig, checkpoint: Checkpoint, store: CheckpointStore, parts: Parts, world: World
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that the training of the new length goes on from, and sentences.

    It is the newest, or of a schedule with a stable part and a decay, one before the decay. Raises ConfigError for a
    length that the schedule does not allow, CheckpointError where no such checkpoint is kept.
    """
    now, units = config.trainer.max_duration, parts.units
    before = planned_duration(checkpoint, now)
    planned, total = units.steps(before), units.steps(now)
    if planned is None or total is None or planned == total or not config.scheduler.needs_total_steps:
        return checkpoint, []
    if not config.scheduler.extend:
        raise ConfigError(length_problem(before, now, type(config.scheduler)))
    if total < planned:
        raise ConfigError.of(
            "RESUME-CHANGE",
            f"trainer.max_duration={now} is shorter than the {before} that the learning rate was laid out for",
            fix="scheduler.extend=true is for a longer training; for a shorter one start a new run",
        )
    first = next((planned for _, planned in read_state(checkpoint).lengths), planned)
    whole = None if first is None else Duration(first, "step")
    warmup = units.steps(config.scheduler.warmup, whole) or 0
    stable = config.scheduler.stable_steps(warmup, planned)
    if stable is None or checkpoint.step <= stable:
        return checkpoint, []
    return _before_decay(store, stable, world)


def _before_decay(store: CheckpointStore, stable: int, world: World) -> tuple[Checkpoint, list[str]]:
    steps = world.exchange(store.steps() if world.is_main else None)[0]
    found = (_intact(store.path_of(step), world) for step in steps if step <= stable)
    checkpoint = next((checkpoint for checkpoint in found if checkpoint is not None), None)
    if checkpoint is None:
        raise CheckpointError.of(
            "RESUME-DECAY",
            f"{store.root} has no checkpoint from before the decay of the learning rate, which began after step "
            f"{stable:,}",
            cause=f"it holds {', '.join(f'step {step:,}' for step in sorted(steps))}",
            fix="start a new run from its weights, init_from=; and for another time, keep one: trainer.save_every, "
            "trainer.keep_last",
        )
    return checkpoint, [
        f"going back to step {checkpoint.step:,}, the last checkpoint before the decay of the learning rate; the later "
        "ones are kept as checkpoints/decayed-step-…"
    ]


def _intact(path: Path, world: World) -> Checkpoint | None:
    """The checkpoint, verified by all ranks together; None where it is not intact."""
    try:
        return verify(path, world)
    except CheckpointError:
        return None
