"""The inputs of a step, and a step as a CUDA graph: recorded once, then replayed by a single launch.

Recording pays where launching kernels takes longer than running them (2 layers of width 128: hundreds of kernels of a
few microseconds). What changes from step to step must be in tensors that the graph reads: `StepInputs`. A replayed step
differs from an eager one in the learning rate, which is rounded to fp32, and in dropout: the generator is seeded once a
step, not for each micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigtrain.randomness import mix
from bigtrain.tasks.base import Batch


@dataclass
class StepInputs:
    """What one optimizer step reads beside weights and state: numbers, or, where it is recorded, device scalars."""

    micro_batches: list[Batch]  # of this rank, on the host or the device
    counts: dict[str, Any]  # targets per loss term over all ranks and micro-batches
    step: Any  # its number, from 0
    rates: list[Any]  # the learning rate of each parameter group
    idle_passes: int = 0  # forward and backward passes after the micro-batches, in step with ranks that have more

    @property
    def recorded(self) -> bool:
        """Whether these are the inputs of a recorded step."""
        return isinstance(self.step, Tensor)


class RecordedStep:
    """`compute`, recorded: calling it with other inputs replays the recording on them."""

    def __init__(self, compute: Callable[[StepInputs], None], example: StepInputs, device: torch.device):
        """Runs `compute` twice before recording it, as libraries initialise themselves, which can't be recorded: the
        caller must make those runs change nothing. On a CPU nothing is recorded; a replay calls `compute` on the
        inputs copied to tensors. Errors of `compute` and of the recording are raised as they are.
        """
        self._inputs = StepInputs(
            [{name: value.to(device, copy=True) for name, value in batch.items()} for batch in example.micro_batches],
            {name: _scalar(value, torch.float64, device) for name, value in example.counts.items()},
            _scalar(example.step, torch.int64, device),
            [_scalar(rate, torch.float32, device) for rate in example.rates],
        )
        record = _as_graph if device.type == "cuda" else _as_call
        self._replay = record(lambda: compute(self._inputs))

    def fits(self, inputs: StepInputs) -> bool:
        """Whether the inputs have the recorded shapes and terms."""
        return (
            len(inputs.micro_batches) == len(self._inputs.micro_batches)
            and all(map(_same_shapes, inputs.micro_batches, self._inputs.micro_batches))
            and inputs.counts.keys() == self._inputs.counts.keys()
        )

    def __call__(self, inputs: StepInputs) -> None:
        """Replays the step with other inputs, which must fit."""
        fill(self._inputs, inputs)
        self._replay()


def seed_generators(device: torch.device, *where: int) -> None:
    """Seeds dropout from (seed, step, rank, micro-batch): 3 µs, and there is no generator state to save."""
    seed = mix(*where)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def _as_graph(run: Callable[[], None]) -> Callable[[], None]:
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        run()
        run()
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    try:
        # In the default mode a recording fails when another thread pins memory, as `Prefetch` does.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except Exception:
        # The generator still counts as recording, and would refuse every seed: it gets a new state.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    return graph.replay


def _as_call(run: Callable[[], None]) -> Callable[[], None]:
    run()
    return run


def fill(recorded: StepInputs, inputs: StepInputs) -> None:
    """Copies `inputs` into the tensors that a recorded step reads, without waiting for the device."""
    for batch, new in zip(recorded.micro_batches, inputs.micro_batches, strict=True):
        for name, value in new.items():
            batch[name].copy_(value, non_blocking=True)
    for name, value in inputs.counts.items():
        recorded.counts[name].fill_(value)
    recorded.step.fill_(inputs.step)
    for rate, value in zip(recorded.rates, inputs.rates, strict=True):
        rate.fill_(value)


def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=dtype, device=device)


def _same_shapes(batch: Batch, other: Batch) -> bool:
    return {name: value.shape for name, value in batch.items()} == {n: v.shape for n, v in other.items()}
