"""One training step on fake tensors: built on the `meta` device, run as on a CPU or as on a GPU, followed by a watch.

The phases of a step: the forward pass of each block, the head with the loss, the backward pass of each block, what
comes before the first block, the optimizer's update. Of equal blocks only the first and the last can hold the peak, and
what a phase holds is linear in their number: so two and three blocks are run, whatever the number is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

from bigtrain.build import Parts, build_loader, build_network
from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataModule
from bigtrain.data.loader import keyed_samples, stream_rows
from bigtrain.data.order import BucketedOrder, ContiguousOrder
from bigtrain.distributed.world import World
from bigtrain.models.config import BertConfig, LSTMConfig, TransformerConfig
from bigtrain.nn.activation_checkpointing import checkpointed_modules
from bigtrain.nn.attention import Attention
from bigtrain.nn.cpu import as_on_gpu
from bigtrain.nn.cross_entropy import DEFAULT_CHUNKING, gpu_chunking
from bigtrain.nn.heads import VocabularyHead
from bigtrain.optim.base import Optimizer
from bigtrain.optim.config import CommonConfig
from bigtrain.planning.changes import (
    ACTIVATIONS,
    AVERAGE,
    BATCH,
    BUFFERS,
    GRADIENTS,
    LOSS,
    OPTIMIZER,
    UPDATE,
    WEIGHTS,
    per_rank,
)
from bigtrain.planning.setup import Setup
from bigtrain.planning.trace import StorageWatch, Trace
from bigtrain.randomness import sample_keys
from bigtrain.registry import OPTIMIZERS, TASKS
from bigtrain.tasks.base import Batch, Task, TrainingModule
from bigtrain.tracking.throughput import flops_per_sample
from bigtrain.training.machine import eager_chunking
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.precision import ResolvedPrecision
from bigtrain.training.recurrent_state import initial_state
from bigtrain.training.snapshot import live_tensors

_CPU = torch.device("cpu")
_LINEAR = (TransformerConfig, BertConfig, LSTMConfig)  # `num_layers` equal blocks, in this order
_FEW = 4  # layers: up to here all are run


@dataclass(frozen=True)
class StepMemory:
    """What one rank holds in a step, whole copies of sharded state: phase → part → bytes; and what a step costs."""

    phases: dict[str, dict[str, int]]
    traffic: float  # bytes that a step's operations move
    flops_per_sample: float  # forward and backward, nothing recomputed
    block_bytes: tuple[int, int]  # what a block keeps of a micro-batch, and its input
    num_blocks: int
    in_blocks: float  # share of the parameters
    snapshot: int  # bytes of a checkpoint, which saving copies to the host

    def peak(self, setup: Setup) -> dict[str, int]:
        """Of one rank, by part: of the phase with the largest total."""
        held = self._held(setup)
        return held[_largest(held)]

    def whole_peak(self, setup: Setup) -> dict[str, int]:
        """The same phase, with whole copies of sharded state."""
        return self.phases[_largest(self._held(setup))]

    def _held(self, setup: Setup) -> dict[str, dict[str, int]]:
        """Phase → part → bytes of one rank."""
        return {
            phase: per_rank(parts, setup, self.num_blocks, self.in_blocks if phase != "update" else 1.0)
            for phase, parts in self.phases.items()
        }


def _largest(held: dict[str, dict[str, int]]) -> str:
    return max(held, key=lambda phase: sum(held[phase].values()))


def measure_step(config: RunConfig, data: DataModule, setup: Setup, gpu_memory: int | None) -> StepMemory:
    """The memory of a step. `gpu_memory`: of the GPU to imitate; None: of a CPU. A few seconds, whatever the size."""
    found = [_run(with_layers(config, count), data, setup, gpu_memory) for count in depths(config, setup.checkpointing)]
    if len(found) == 1:
        return found[0]
    return _extended(found[0], found[1], config.model.num_layers)  # type: ignore[attr-defined]


def depths(config: RunConfig, checkpointing: str = "off") -> tuple[int, ...]:
    """The numbers of layers from which those of the model are told: two and three, or (0,), which stands for all."""
    optimizer = config.optimizer
    named = isinstance(optimizer, CommonConfig) and bool(
        optimizer.freeze or optimizer.no_decay or optimizer.learning_rate_scale
    )  # patterns may name blocks
    steady = checkpointing in ("off", "full", "attention")
    deep = type(config.model) in _LINEAR and getattr(config.model, "num_layers", 0) > _FEW
    return (2, 3) if deep and steady and not named else (0,)


def with_layers(config: RunConfig, count: int) -> RunConfig:
    """The same training of another depth; 0 leaves it as it is."""
    return replace(config, model=replace(config.model, num_layers=count)) if count else config  # type: ignore[call-arg]


def extended(of_two: float, of_three: float, layers: int) -> float:
    """What is linear in the number of layers, from two and three."""
    return of_three + (layers - 3) * (of_three - of_two)


def _extended(two: StepMemory, three: StepMemory, layers: int) -> StepMemory:
    """What more layers hold, from two and three."""
    extend = partial(extended, layers=layers)
    phases = {
        phase: {part: int(extend(parts.get(part, 0), size)) for part, size in three.phases[phase].items()}
        for phase, parts in two.phases.items()
        if phase in three.phases
    }
    weights = [memory.phases["update"][WEIGHTS] for memory in (two, three)]
    in_blocks = (weights[1] - weights[0]) * layers / extend(*weights)
    return StepMemory(
        phases,
        extend(two.traffic, three.traffic),
        extend(two.flops_per_sample, three.flops_per_sample),
        three.block_bytes,
        layers,
        in_blocks,
        int(extend(two.snapshot, three.snapshot)),
    )


def _run(config: RunConfig, data: DataModule, setup: Setup, gpu_memory: int | None) -> StepMemory:
    """Builds it and runs it."""
    task: Task = TASKS.entry_of(config.task).load()(config.task, data.spec, data.tokenizer)
    with torch.device("meta"):
        network = build_network(config, task, data.spec, torch.device("meta"), draw=False)
    module = TrainingModule(network, task)
    parts = Parts(config, data, task, network, module, World(0, 1, _CPU))
    batches = example_batches(parts, setup)
    typical = parts.loader.typical_batch()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    to_fake(network, mode)
    _as_for(network, gpu_memory)
    watch = StorageWatch()
    with mode, as_on_gpu() if gpu_memory else contextlib.nullcontext():
        if isinstance(parts.loader.order, ContiguousOrder):
            module.recurrent_state = initial_state(network, parts.loader.order.batch_size)
        fakes = [{name: mode.from_tensor(value) for name, value in batch.items()} for batch in batches]
        flops = flops_per_sample(module, {name: mode.from_tensor(value) for name, value in typical.items()})
        optimizer: Optimizer = OPTIMIZERS.entry_of(config.optimizer).load()(config.optimizer, network)
        decay = config.trainer.ema_decay
        average = MovingAverage(live_tensors(network), decay) if decay else None
        held = {
            WEIGHTS: list(module.parameters()),
            BUFFERS: list(module.buffers()),
            OPTIMIZER: [value for state in optimizer.state.values() for value in state.values()],
            AVERAGE: [] if average is None else list(average.tensors.values()),
            BATCH: [value for batch in fakes for value in batch.values()],
        }
        for part, tensors in held.items():
            watch.hold(tensors, part)
        module.train()
        marks = _mark_phases(parts, watch, setup.checkpointing)
        with watch:
            _step(parts, fakes, ResolvedPrecision(setup.precision, ""), optimizer, average, watch)
    blocks = network.backbone.ordered_blocks()
    return _summed(watch.trace, setup, marks, flops, module, blocks, _snapshot_bytes(held))


def _summed(
    trace: Trace,
    setup: Setup,
    marks: _Marks,
    flops: float,
    module: nn.Module,
    blocks: list[nn.Module],
    snapshot: int,
) -> StepMemory:
    phases = {
        phase: {part: int(size) for part, size in parts.items() if size}
        for phase, parts in trace.peaks.items()
        if phase
    }
    numbers = sum(parameter.numel() for parameter in module.parameters())
    in_blocks = sum(parameter.numel() for block in blocks for parameter in block.parameters()) / max(numbers, 1)
    return StepMemory(phases, trace.traffic, flops, (marks.kept, marks.block_input), len(blocks), in_blocks, snapshot)


def _snapshot_bytes(held: dict[str, list[Tensor]]) -> int:
    return sum(tensor.nbytes for part in (WEIGHTS, OPTIMIZER, AVERAGE) for tensor in held[part])


def example_batches(parts: Parts, setup: Setup) -> list[Batch]:
    """Two micro-batches of a rank's step, or one where there is one: the largest that there are."""
    loader = build_loader(parts)
    order, count = loader.order, setup.micro_batch
    if isinstance(order, BucketedOrder):
        lengths = loader.dataset.lengths
        assert lengths is not None
        ids = max(order.batches, key=lambda batch: len(batch) * int(lengths[batch].max()))
        share = -(-len(ids) // setup.ranks)
        given = parts.config.trainer.micro_batch_size
        count = min(share, setup.micro_batch) if given or setup.passes > 1 else share
        ids = ids[:count]
        passes = 2 if share > count else 1
    else:
        ids, passes = np.zeros(count, dtype=np.int64), min(setup.passes, 2)  # of one size: any will do
    batch = loader.collate(keyed_samples(loader.dataset, ids, sample_keys(0, 0, ids), loader.needs_partners))
    if isinstance(order, ContiguousOrder):
        batch |= stream_rows(ids * 0, ids < 0)
    return [batch] * passes


def to_fake(network: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces parameters and buffers on the `meta` device by fake ones of a CPU; tied ones stay tied."""
    fakes: dict[int, Tensor] = {}
    replaced = []  # kept, so that no id is used twice
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is None:
                    continue
                replaced.append(value)
                if id(value) not in fakes:
                    fake: Tensor = FakeTensor(mode, value.data, _CPU)
                    is_parameter = isinstance(value, nn.Parameter)
                    fakes[id(value)] = nn.Parameter(fake, value.requires_grad) if is_parameter else fake
                tensors[name] = fakes[id(value)]  # type: ignore[assignment]
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _as_for(network: nn.Module, gpu_memory: int | None) -> None:
    """Chunks of the loss; and a GPU's attention kernels, which drop weights without keeping them, as no CPU's do."""
    chunking = eager_chunking(gpu_chunking(gpu_memory)) if gpu_memory else DEFAULT_CHUNKING
    for module in network.modules():
        if isinstance(module, VocabularyHead):
            module.chunking = chunking
        if isinstance(module, Attention) and gpu_memory:
            module.attention_dropout = 0.0


@dataclass
class _Marks:
    """What hooks find out about a block."""

    kept: int = 0
    block_input: int = 0
    before: float = 0.0


def _mark_phases(parts: Parts, watch: StorageWatch, checkpointing: str) -> _Marks:
    """Hooks that tell the watch which phase it is in; no hook changes what is kept."""
    marks, blocks = _Marks(), parts.network.backbone.ordered_blocks()
    for index, block in enumerate(blocks):
        place = "first" if index == 0 else "last" if index == len(blocks) - 1 else "middle"
        block.register_forward_pre_hook(partial(_begin_block, watch, marks, place), with_kwargs=True)
        block.register_forward_hook(partial(_end_block, watch, marks, place))
    for head in parts.network.heads.values():
        head.register_forward_pre_hook(lambda *_: watch.enter("loss", LOSS))
    for parameter in parts.network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda trained: watch.hold([trained.grad] if trained.grad is not None else [], GRADIENTS)
            )
    _recompute(blocks, checkpointing)
    return marks


def _begin_block(watch: StorageWatch, marks: _Marks, place: str, _: nn.Module, args: Any, __: Any) -> None:
    x: Tensor = args[0]
    if x.requires_grad and place == "first":
        x.register_hook(lambda _: watch.enter("embedding", ACTIVATIONS))
    watch.enter(f"forward, {place} block", ACTIVATIONS)
    marks.block_input, marks.before = x.nbytes, watch.live(ACTIVATIONS)


def _end_block(watch: StorageWatch, marks: _Marks, place: str, _: nn.Module, __: Any, output: Any) -> None:
    x: Tensor = output[0] if isinstance(output, tuple) else output
    marks.kept = int(watch.live(ACTIVATIONS) - marks.before)
    if x.requires_grad:
        x.register_hook(lambda _: watch.enter(f"backward, {place} block", ACTIVATIONS))


def _recompute(blocks: list[nn.Module], checkpointing: str) -> None:
    """As `trainer.activation_checkpointing` has it: PyTorch's, per block, without saved tensors inside."""
    for module in checkpointed_modules(blocks, checkpointing):
        run: Callable[..., Any] = module.forward
        module.forward = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)  # type: ignore[method-assign]


def _step(
    parts: Parts,
    batches: list[Batch],
    precision: ResolvedPrecision,
    optimizer: Optimizer,
    average: MovingAverage | None,
    watch: StorageWatch,
) -> None:
    """What `Trainer.compute` does, without its numbers."""
    found_inf, grad_scale = torch.zeros(()), torch.ones(())
    with precision.one_cast_per_weight(_CPU, len(batches)):
        for batch in batches:
            watch.enter("embedding", ACTIVATIONS)
            with precision.autocast(_CPU):
                terms = parts.module(batch).terms.values()
                loss = torch.stack([term.sum for term in terms]).sum()
            watch.enter("loss", LOSS)
            loss.backward()
            del loss, terms
    watch.enter("update", UPDATE)
    gradients = [parameter.grad for parameter in parts.module.parameters() if parameter.grad is not None]
    torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    del gradients
    optimizer.step(found_inf, grad_scale)
    optimizer.zero_grad()
    if average is not None:
        average.update(0, found_inf)


@contextlib.contextmanager
def unchanged_generator() -> Iterator[None]:
    """Torch's generator, which building a network seeds, is afterwards as it was."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
