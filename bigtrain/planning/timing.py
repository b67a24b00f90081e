"""The time of a step on this machine, from real steps of the training itself: of all of it, or of two and three blocks.

Equal blocks take equal time, so that of a deep model follows from two shallow ones, whose weights take little memory.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from bigtrain.build import build_parts, build_trainer
from bigtrain.config.run import Precision, RunConfig
from bigtrain.data.base import DataModule
from bigtrain.distributed.world import lone_world
from bigtrain.planning.setup import Setup
from bigtrain.planning.step import depths, extended, with_layers
from bigtrain.signals import StopRequest
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.trainer import Trainer

_WARM_UP = 2  # steps
_STEPS = 5  # at least
_SECONDS = 4.0  # of timed steps, of all depths together


def step_seconds(config: RunConfig, data: DataModule, setup: Setup) -> float:
    """Seconds of a rank's step, without communication: a median. Activations are kept, whatever the settings say.

    Steps of both depths take turns, so that what else the machine does touches both alike.
    """
    layers = depths(config)
    times: dict[int, list[float]] = {count: [] for count in layers}
    with contextlib.ExitStack() as stack:
        trainers = {count: stack.enter_context(_trainer(config, data, setup, count)) for count in layers}
        for trainer in trainers.values():
            for _ in range(_WARM_UP):
                _timed_step(trainer)
        while min(map(len, times.values())) < _STEPS or sum(map(sum, times.values())) < _SECONDS:
            for count, trainer in trainers.items():
                times[count].append(_timed_step(trainer))
    medians = [statistics.median(times[count]) for count in layers]
    if len(medians) == 1:
        return medians[0]
    return extended(medians[0], medians[1], config.model.num_layers)  # type: ignore[attr-defined]


@contextmanager
def _trainer(config: RunConfig, data: DataModule, setup: Setup, layers: int) -> Iterator[Trainer]:
    """What trains one rank's share of the batch, with so many layers (0: all). It writes nothing."""
    settings = replace(
        config.trainer,
        batch_size=setup.share,
        micro_batch_size=setup.micro_batch,
        precision=Precision(setup.precision),
        activation_checkpointing="off",
        processes=1,
    )
    config = replace(with_layers(config, layers), trainer=settings)
    parts = build_parts(config, data, lone_world(settings.gpus))
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(parts, Path(folder), Tracker([]), StopRequest(), {}, None)
        trainer.module.train()
        try:
            yield trainer
        finally:
            trainer.prefetch.close()
            trainer.watch.close()


def _timed_step(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.train_step(trainer.plan_step())
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize(trainer.world.device)
    return time.perf_counter() - started
