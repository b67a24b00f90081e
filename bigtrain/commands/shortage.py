"""What a training says where memory runs out: what was asked for, what there was, when, and what needs less."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

from bigtrain.build import build_data, build_parts, build_trainer
from bigtrain.config.run import Precision, RunConfig
from bigtrain.data.base import DataSpec
from bigtrain.distributed.world import World
from bigtrain.errors import MemoryShortage, is_memory_shortage
from bigtrain.planning.changes import cheapest_changes
from bigtrain.planning.formula import certain_memory, resolved, untraced_situation
from bigtrain.planning.setup import Setup
from bigtrain.registry import MODELS
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.tracking.formatting import memory
from bigtrain.tracking.memory import free_memory_bytes, memory_total_bytes
from bigtrain.training.evaluator import Evaluator
from bigtrain.training.micro_batch import smaller
from bigtrain.training.precision import emulated_on_cpu
from bigtrain.training.trainer import Trainer

# What a function does, in words; the innermost one of an error's traceback decides.
_PHASES: dict[CodeType, str] = {
    build_data.__code__: "while the data was read",
    build_parts.__code__: "while the model was built",
    build_trainer.__code__: "while the training was set up",
    Trainer.plan_step.__code__: "while a batch was read",
    Trainer.train_step.__code__: "in a training step",
    Trainer.evaluate.__code__: "in an evaluation",
    Evaluator.evaluate.__code__: "in an evaluation",
    Trainer.write_checkpoint.__code__: "while a checkpoint was saved",
}
_ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTP]?i?B)\b")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


@contextmanager
def shortage_of_memory(
    config: RunConfig, world: World, run_dir: Path | None = None, spec: DataSpec | None = None
) -> Iterator[None]:
    """Raises MemoryShortage for a failed allocation, on the host or a GPU. Other errors are raised as they are.

    With the data's `spec` it says what the plan has for the training's state, and which changes are enough by it.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_memory_shortage(error):
            raise
        raise _shortage(error, config, world, run_dir, spec) from error


def _shortage(
    error: BaseException, config: RunConfig, world: World, run_dir: Path | None, spec: DataSpec | None
) -> MemoryShortage:
    # The traceback still holds the tensors of the functions that have failed: what is free now was free then.
    free, total = free_memory_bytes(world.device), memory_total_bytes(world.device)
    asked, size = asked_bytes(str(error)), _micro_batch_size(error)
    parts = [f"{memory(asked)} were asked for"] if asked else []
    parts += [f"{memory(free)} of {memory(total)} were free"] if free else [f"there is {memory(total)}"]
    enough: list[str] = []
    if spec is not None and (state := certain_memory(config, spec)):
        setup = resolved(Setup.of(config, world.size, world.device.type == "cpu", world.local_size), state, total)
        parts.append(f"by the plan the training's state takes {memory(sum(state.values()) // setup.shards)}")
        enough = _enough(config, setup, spec, world, total, total - free + asked)
    where = "on the GPU" if world.device.type == "cuda" else "on the host"
    ways = (enough or cheapest_overrides(config, world, size))[:3]
    fix = f"what needs less, the cheapest first: {', '.join(ways)}; bigtrain plan, with the same words, shows what fits"
    if run_dir is not None and (steps := CheckpointStore(run_dir / "checkpoints").steps()):
        fix += f"; the run goes on with resume={run_dir}, from its checkpoint of step {steps[-1]}"
    return MemoryShortage.of(
        "MEMORY",
        f"memory {where} ran out {phase_of(error)}: {', '.join(parts)}",
        cause=f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300],
        fix=fix,
    )


def _enough(config: RunConfig, setup: Setup, spec: DataSpec, world: World, available: int, used: int) -> list[str]:
    """Overrides that make it fit by the plan's arithmetic; [] where none does, and under tensor parallelism, which the
    plan does not know.
    """
    situation = untraced_situation(config, spec, setup, available, world.device.type == "cpu", used)
    changes = [] if situation is None or world.tensor_parallel > 1 else cheapest_changes(situation)
    return [" ".join(change.overrides) for change in changes]


def phase_of(error: BaseException) -> str:
    """What was being done, by the error's traceback, and in which step."""
    phase = "at the start"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        phase = _PHASES.get(frame.f_code, phase)
        if frame.f_code is Trainer.train_step.__code__:
            phase += f" (step {frame.f_locals['self'].state.step + 1})"
    return phase


def _micro_batch_size(error: BaseException) -> int | None:
    """Of the trainer that was training; None where none was."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code is Trainer.fit.__code__)
    return next((frame.f_locals["self"].loader.micro_batch_size for frame in frames), None)


def asked_bytes(message: str) -> int:
    """Bytes that were asked for, by the words of PyTorch or NumPy; 0 where they don't say."""
    found = _ASKED.search(message)
    return int(float(found[1]) * _UNITS.get(found[2][0], 1)) if found else 0


def cheapest_overrides(config: RunConfig, world: World, micro_batch_size: int | None = None) -> list[str]:
    """Overrides with which this run needs less memory: first those that leave the training the same, to rounding, or
    cost it little time, then those that change it. `micro_batch_size`: what it is, where that is known.
    """
    settings, model = config.trainer, config.model
    share = micro_batch_size or settings.fixed_micro_batch_size or max(1, settings.batch_size // world.data_size)
    found = []
    if (half := smaller(share)) and settings.batch_tokens is None:
        found.append(f"trainer.micro_batch_size={half}")
    if settings.activation_checkpointing != "full" and not model.counts:
        found.append("trainer.activation_checkpointing=full")
    if settings.precision is Precision.fp32 and (world.device.type == "cuda" or not emulated_on_cpu("bf16")):
        found.append("trainer.precision=bf16")
    if settings.batch_tokens is not None:
        found.append(f"trainer.batch_tokens={settings.batch_tokens // 2}")
    if config.data.sequence_length is not None:
        found.append(f"data.sequence_length={max(1, config.data.sequence_length // 2)}")
    name = MODELS.entry_of(model).name
    found.append(f"a smaller model (bigtrain --help model={name} lists its settings)")
    return found
