"""The size of the micro-batches under `trainer.micro_batch_size=auto`: the largest that memory has room for.

On a GPU by trying, from a rank's whole share of the batch downwards; on a CPU, where the system promises more than
there is, from the memory that two small passes take. All ranks take the smallest that any of them finds. Which size it
is changes rounding, the dropout masks (seeded for each micro-batch) and batch norm's statistics (of each micro-batch).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bigtrain.config.run import TrainerConfig
from bigtrain.data.loader import TrainLoader
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError, is_memory_shortage
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.memory import PeakMemory, free_memory_bytes
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.machine import try_step
from bigtrain.training.precision import ResolvedPrecision
from bigtrain.training.state import TrainState
from bigtrain.training.step import StepInputs

_USED = 0.8  # of a CPU's free memory, for a step: what kernels allocate for themselves is not in what is measured
_STATE_PER_WEIGHT = 2  # tensors of a weight's size that an optimizer makes in its first step; AdamW's, the most


def choose_micro_batch_size(
    module: TrainingModule,
    settings: TrainerConfig,
    loader: TrainLoader,
    precision: ResolvedPrecision,
    state: TrainState,
    world: World,
    sharded: bool,
) -> None:
    """Under auto sets the loader's micro-batch size: what a resumed run has resolved, else the largest that fits.

    Raises ConfigError for samples that differ in length, as a step's memory would depend on which it has, and for
    weights that are `sharded`.
    """
    if settings.micro_batch_size != "auto":
        state.resolved.pop("micro_batch_size", None)  # of an earlier session, which may have been set otherwise
        return
    if loader.dataset.lengths is not None:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.micro_batch_size is auto, but the samples of this data differ in length, and so does what "
            "a batch of them needs",
            fix="give a number of samples, or trainer.batch_tokens",
        )
    if sharded:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.micro_batch_size is auto, but the weights are split over ranks, which would have to try together",
            fix="give a number of samples (bigtrain plan says which fits), or trainer.strategy=ddp",
        )
    share = int(loader.order.samples_per_step) // world.data_size
    kept = int(state.resolved.get("micro_batch_size", 0))
    if not kept or share % kept:  # with other ranks the share is another
        reserved = _reserved_bytes(module, settings)
        find = _largest_by_trying if world.device.type == "cuda" else _largest_by_measuring
        found = find(module, loader, precision, world, share, reserved)
        kept = int(world.gather([found]).min())
    set_micro_batch_size(loader, state, kept)


def set_micro_batch_size(loader: TrainLoader, state: TrainState, size: int) -> None:
    """From now on micro-batches have this size, in this run and where it is resumed."""
    loader.micro_batch_size = size
    state.resolved["micro_batch_size"] = str(size)


@dataclass
class FittingMicroBatches:
    """Under auto, does a step's passes again in smaller micro-batches where memory runs out in one.

    The samples, their targets and the loss stay the same. A step's update is not done again: it may have changed
    weights. Of several ranks one can't tell the others, which wait for its gradients in their backward pass: there, the
    error ends the run.
    """

    loader: TrainLoader
    state: TrainState
    world: World
    tracker: Tracker
    undo: Callable[[], None]  # sets back what the passes of a step change

    def run(self, passes: Callable[[StepInputs], Tensor], inputs: StepInputs) -> Tensor:
        """What `passes` returns. Raises its errors, but for a shortage of memory that smaller micro-batches mend."""
        while True:
            try:
                return passes(inputs)
            except (RuntimeError, MemoryError) as error:
                size = self._smaller() if is_memory_shortage(error) and not inputs.recorded else None
                if size is None:
                    raise
            inputs = self._cut(inputs, size)  # outside of the handler: the error holds the tensors of its frames

    def _smaller(self) -> int | None:
        size = self.loader.micro_batch_size
        if size is None or "micro_batch_size" not in self.state.resolved or self.world.size > 1:
            return None
        return smaller(size)

    def _cut(self, inputs: StepInputs, size: int) -> StepInputs:
        before = self.loader.micro_batch_size
        set_micro_batch_size(self.loader, self.state, size)
        self.undo()
        release_memory(self.world.device)
        step = self.state.step
        sentence = f"memory ran out in step {step + 1}: from here on micro-batches have {size} samples, not {before}"
        self.tracker.note(sentence, True)
        return replace(inputs, micro_batches=self.loader.micro_batches(step))


def smaller(size: int) -> int | None:
    """The largest proper divisor, 8 → 4, 9 → 3; None below 1."""
    return None if size == 1 else largest_divisor(size, size // 2)


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is not above `at_most`, at least 1."""
    return next(divisor for divisor in range(max(1, at_most), 0, -1) if number % divisor == 0)


def release_memory(device: torch.device) -> None:
    """Frees what a failed pass has left: graphs in reference cycles, and blocks that CUDA's allocator keeps."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reserved_bytes(module: nn.Module, settings: TrainerConfig) -> int:
    """Of what a training has beyond a forward and backward pass: the optimizer's state, and the average of weights."""
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    return trained * (_STATE_PER_WEIGHT + (settings.ema_decay is not None))


def _largest_by_trying(
    module: TrainingModule, loader: TrainLoader, precision: ResolvedPrecision, world: World, share: int, reserved: int
) -> int:
    """The first of the share, its largest proper divisor, … whose forward and backward pass has room."""
    size = share
    while (next_smaller := smaller(size)) is not None:
        loader.micro_batch_size = size
        try:
            room = torch.empty(reserved, dtype=torch.uint8, device=world.device)
            try_step(module, loader, precision, world)
            del room
            break
        except RuntimeError as error:
            if not is_memory_shortage(error):
                raise
        room = None
        release_memory(world.device)
        size = next_smaller
    release_memory(world.device)
    return size


def _largest_by_measuring(
    module: TrainingModule, loader: TrainLoader, precision: ResolvedPrecision, world: World, share: int, reserved: int
) -> int:
    """The largest divisor of the share that has room, where memory grows by so much for each sample."""
    few, more = largest_divisor(share, 2), largest_divisor(share, 4)
    if few == more:  # a share of 1, 2 or 3: there is hardly a choice
        return share
    peaks = []
    for size in (few, more):
        loader.micro_batch_size = size
        with PeakMemory(module) as memory:
            try_step(module, loader, precision, world)
        peaks.append(memory.peak)
    per_sample = max(1.0, (peaks[1] - peaks[0]) / (more - few))
    free = free_memory_bytes(world.device) / world.local_size  # which the ranks of a machine share
    room = _USED * free - reserved - (peaks[0] - few * per_sample)
    return largest_divisor(share, min(share, int(room / per_sample)))
