"""What a step reads, and a step as a CUDA graph: recorded once, then replayed as a whole by a single launch.

Recording pays where a step is launches and not arithmetic (2 layers of width 128: hundreds of kernels of a few
microseconds). What changes from step to step must lie in tensors that the graph reads: `StepInputs`.
A replay runs the kernels that were recorded. It differs from the eager step in the learning rate, which is rounded to
fp32, and in dropout: the generator is seeded once a step, not for each micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigtrain.randomness import mix
from bigtrain.tasks.base import Batch


@dataclass(frozen=True)
class StepPlan:
    """This rank's micro-batches of a step, and the targets per loss term that all ranks together have in it (≥ 1)."""

    micro_batches: list[Batch]
    counts: dict[str, float]


@dataclass
class StepInputs:
    """What one optimizer step reads beside weights and state.

    Numbers of the host, or, in a recorded step, scalars on the device in their place.
    """

    micro_batches: list[Batch]  # of this rank, on the host or the device
    counts: dict[str, Any]  # targets per loss term over all ranks and micro-batches
    step: Any  # its number, from 0
    rates: list[Any]  # the learning rate of each parameter group

    @property
    def recorded(self) -> bool:
        """Whether these are the inputs of a recorded step."""
        return isinstance(self.step, Tensor)


class RecordedStep:
    """Called with the inputs of a step, it does what `compute` did when it was recorded."""

    def __init__(self, compute: Callable[[StepInputs], None], example: StepInputs, device: torch.device):
        """Runs `compute` twice first: libraries set themselves up, which can't be recorded. The caller sees to it that
        this changes nothing. On a CPU nothing is recorded: a replay runs `compute` on the same recorded inputs.

        Whatever fails is raised as it comes.
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
    apart = torch.cuda.Stream()
    apart.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(apart):
        run()
        run()
    torch.cuda.current_stream().wait_stream(apart)
    graph = torch.cuda.CUDAGraph()
    try:
        # A thread that pins memory meanwhile would end a recording in the default mode.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except Exception:
        # The generator believes that the recording goes on, and would refuse every seed: it gets a state of its own.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    return graph.replay


def _as_call(run: Callable[[], None]) -> Callable[[], None]:
    run()
    return run


def fill(recorded: StepInputs, inputs: StepInputs) -> None:
    """Copies inputs from the host over those that a recorded step reads, without waiting."""
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
