"""What a task is: stateless functions between samples, network and loss.

The loss contract: `compute_loss` returns *sums* and never divides. The trainer sums `counts` over the
micro-batches and ranks of a step before the first forward, and each micro-batch back-propagates `weight * sum
/ global count`. So how a batch is cut into micro-batches and ranks changes nothing but rounding, also when
target counts differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.nn.cross_entropy import UNSCORED

Batch = dict[str, Tensor]


@dataclass
class LossTerm:
    """`sum` over the micro-batch's targets (a scalar with gradient), their `count` (scalar), and the term's
    weight.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0


@dataclass
class LossOutput:
    """Terms by name, and, in evaluation only, statistics that add up over batches and ranks (no gradient).

    `state`: where the backbone has got to, for a task that goes on from the batch's `state`.
    """

    terms: dict[str, LossTerm]
    statistics: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None


class Task(Protocol):
    """Built as `factory(config, data_spec, tokenizer)`; the tokenizer is None for data that has none."""

    needs_partners: bool  # whether `collate` reads another sample of the split beside each (data/loader.py)

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """The heads that this task needs, by name, for a backbone of this width D."""
        ...

    def collate(self, samples: Batch, training: bool) -> Batch:
        """Samples with their `keys` (data/loader.py) → the batch that `compute_loss` reads.

        A pure function of its arguments: whatever is random follows from the keys.
        """
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of targets per loss term, as float64 scalars on the host, known without a forward pass."""
        ...

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Forward pass and loss sums. Statistics in eval mode only (`network.training`)."""
        ...

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """Numbers to report, from the summed `<term>.sum`, `<term>.count` and statistics of a whole split."""
        ...


@runtime_checkable
class WritesTargets(Protocol):
    """A task that has the network write targets of its own in an evaluation, and scores them."""

    def generated_statistics(self, network: nn.Module, batch: Batch, final: bool) -> dict[str, Tensor]:
        """Statistics that add up over batches and ranks; `final`: as at the end of a run, whatever time it takes."""
        ...


class TrainingModule(nn.Module):
    """Network and task as the one module that is wrapped and sharded: forward(batch) → LossOutput.

    `recurrent_state` (S, …) is the state at which each of S streams of text has arrived, where it goes from one batch
    to the next (`training/recurrent_state.py`). It is a buffer, so a step that is skipped leaves it as it was.
    """

    recurrent_state: Tensor | None

    def __init__(self, network: nn.Module, task: Task):
        super().__init__()
        self.network = network
        self.task = task
        self.register_buffer("recurrent_state", None)

    def forward(self, batch: Batch) -> LossOutput:
        """See `Task.compute_loss`. A batch with `streams` goes on from their states, and updates them."""
        if self.recurrent_state is None or "streams" not in batch:
            return self.task.compute_loss(self.network, batch)
        state = self.recurrent_state[batch["streams"]]
        begins = batch["begins"].view(-1, *[1] * (state.ndim - 1))
        output = self.task.compute_loss(self.network, batch | {"state": state.masked_fill(begins, 0.0)})
        self.recurrent_state[batch["streams"]] = output.state.detach().to(self.recurrent_state.dtype)
        return replace(output, state=None)


def num_scored(targets: Tensor) -> Tensor:
    """How many targets are not UNSCORED, a scalar."""
    return torch.count_nonzero(targets != UNSCORED)


def perplexity(loss: float) -> float:
    """exp(loss), infinite instead of an OverflowError (a diverged loss may pass 709)."""
    return math.exp(loss) if loss < 700 or math.isnan(loss) else math.inf


def evaluation_totals(output: LossOutput) -> dict[str, Tensor]:
    """A LossOutput as one flat dict of float64 tensors that add up over batches and ranks."""
    totals = {f"{name}.sum": term.sum.detach().double() for name, term in output.terms.items()}
    totals |= {f"{name}.count": term.count.double() for name, term in output.terms.items()}
    totals |= {name: value.to(torch.float64) for name, value in output.statistics.items()}
    return totals
