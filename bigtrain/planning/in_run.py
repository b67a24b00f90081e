"""Predicted memory beside measured, of a training that has run; and the refusal before one that can't fit."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bigtrain.build import Parts
from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataSpec
from bigtrain.distributed.shards import local
from bigtrain.distributed.world import World
from bigtrain.planning.formula import refuse_oversize, smallest_spec
from bigtrain.planning.setup import Setup
from bigtrain.tracking.memory import memory_total_bytes
from bigtrain.training.machine import device_name
from bigtrain.training.trainer import Trainer


class MemoryFigures(NamedTuple):
    """Bytes of this rank at the peak of a step."""

    predicted: int
    measured: int


def require_memory(config: RunConfig, world: World, spec: DataSpec | None = None) -> None:
    """Raises MachineError for a model whose training state alone is more than there is. Without the data's `spec`: by
    the smallest that there can be.
    """
    device = world.device
    name = device_name(device) if device.type == "cuda" else "cpu"
    refuse_oversize(
        config, spec or smallest_spec(config), world.size, world.local_size, memory_total_bytes(device), name
    )


def peak_memory(config: RunConfig, parts: Parts, trainer: Trainer) -> MemoryFigures | None:
    """Of a training on a GPU, by its allocator; on a CPU where a few steps were profiled. Else None, and for a model
    that is counted.
    """
    device, measured = parts.world.device, trainer.watch.allocated_peak
    not_planned = config.model.counts or parts.world.tensor_parallel > 1
    if not_planned or (device.type == "cpu" and measured is None):
        return None
    if device.type == "cuda":
        measured = int(torch.cuda.max_memory_allocated(device))
    else:
        measured = (measured or 0) + held_between_steps(trainer)
    total = memory_total_bytes(device) if device.type == "cuda" else None
    return MemoryFigures(predicted_peak(config, parts, trainer.precision.name, total), measured)


def predicted_peak(config: RunConfig, parts: Parts, precision: str, gpu_memory: int | None) -> int:
    """Bytes of a rank of this training. `gpu_memory`: of the GPU; None: on a CPU."""
    from bigtrain.planning.step import measure_step, unchanged_generator  # fake tensors import the compiler: 0.6 s

    world, micro_batch = parts.world, parts.loader.micro_batch_size
    setup = Setup.of(config, world.size, gpu_memory is None, world.local_size).changed(precision=precision)
    setup = setup.changed(strategy="ddp" if world.size == 1 else parts.strategy.name)
    setup = setup.changed(micro_batch=min(micro_batch or setup.share, setup.share))
    with unchanged_generator():
        step = measure_step(config, parts.data, setup, gpu_memory)
    return sum(step.peak(setup).values())


def held_between_steps(trainer: Trainer) -> int:
    """Bytes of what stands between steps."""
    tensors = [*trainer.module.parameters(), *trainer.module.buffers()]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors += [] if trainer.average is None else list(trainer.average.tensors.values())
    return sum({id(tensor): local(tensor).nbytes for tensor in tensors}.values())
