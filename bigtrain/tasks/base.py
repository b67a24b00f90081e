"""The base class of tasks, and the one module of network and task that is trained.

A task is stateless: functions between samples, network and loss, and what is shown, answered and compared with.

The loss contract: `compute_loss` returns *sums* and never divides. The trainer sums `counts` over the
micro-batches and ranks of a step before the first forward, and each micro-batch back-propagates `weight * sum
/ global count`. So how a batch is cut into micro-batches and ranks changes nothing but rounding, also when
target counts differ.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.run import GenerateConfig, RunConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.nn.cross_entropy import UNSCORED

Batch = dict[str, Tensor]
Shown = tuple[str, str | np.ndarray]  # a tag, and a text or a picture (height, width, 3) uint8
Answer = Callable[[str, int], Iterator[str]]  # (prompt, its number) → the answer, in pieces as they come


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

    `state`: the backbone's state after the batch, of a task that starts from the batch's `state`.
    """

    terms: dict[str, LossTerm]
    statistics: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None

    def objective(self, counts: Mapping[str, float | Tensor], ranks: int) -> Tensor:
        """What a micro-batch back-propagates: Σ weight · sum / global count; × ranks, as gradients are averaged."""
        terms = []
        for name, term in self.terms.items():
            factor = term.weight * ranks / counts[name]
            terms.append(term.sum * (factor.to(term.sum.dtype) if isinstance(factor, Tensor) else factor))
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

    def detached(self) -> dict[str, LossTerm]:
        """The terms without their graph."""
        return {name: replace(term, sum=term.sum.detach()) for name, term in self.terms.items()}


class Example(NamedTuple):
    """What a trained network writes, to be shown with its results, and a prompt to try next; None: it takes none."""

    text: str = ""
    prompt: str | None = None


@dataclass
class Baselines:
    """Per split, metrics of trivial models such as `bigram_loss` and `majority_accuracy`; and notes for the user."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Task(ABC):
    """Built as `factory(config, data_spec, tokenizer)`; the tokenizer is None for data that has none.

    The abstract methods are what training needs. The others are what a task shows, answers and is compared with: by
    default nothing. They may get the network in training mode and leave it in that mode, and never touch the global
    random number generators.
    """

    data_spec: DataSpec
    tokenizer: Tokenizer | None
    needs_partners = False  # whether `collate` reads another sample of the split beside each (data/loader.py)
    searches = False  # whether `answers` searches (num_beams, length_penalty) instead of sampling (top_k, top_p)

    @abstractmethod
    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """The heads that this task needs, by name, for a backbone of this width D."""

    @abstractmethod
    def collate(self, samples: Batch, training: bool) -> Batch:
        """Samples with their `keys` (data/loader.py) → the batch that `compute_loss` reads.

        A pure function of its arguments: whatever is random follows from the keys.
        """

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of targets per loss term, as float64 scalars on the host, known without a forward pass."""

    @abstractmethod
    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Forward pass and loss sums. Statistics in eval mode only (`network.training`)."""

    @abstractmethod
    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """Metrics from the `<term>.sum`, `<term>.count` and statistics, each summed over a whole split."""

    def generated_statistics(self, network: nn.Module, batch: Batch, final: bool) -> dict[str, Tensor]:
        """Statistics of what the network writes itself in an evaluation; they add up over batches and ranks.

        `final`: as at the end of a run, however long it takes.
        """
        return {}

    @property
    def measures_more_at_end(self) -> bool:
        """Whether an evaluation at the end of a run may have other metrics than one of the same weights before it."""
        return type(self).generated_statistics is not Task.generated_statistics

    def show_inputs(self, data: DataModule) -> Iterator[Shown]:
        """What the training samples look like; recorded once, at the first evaluation."""
        return iter(())

    def show(
        self, network: nn.Module, data: DataModule, config: RunConfig, seed: int, totals: dict[str, Tensor]
    ) -> Iterator[Shown]:
        """What the network does, recorded at each evaluation on the validation split.

        `seed` is for what is sampled; `totals` are those of that evaluation, as `metrics` takes them.
        """
        return iter(())

    def final_example(self, network: nn.Module, data: DataModule, config: RunConfig) -> Example:
        """What the best network writes, at the end of a run."""
        return Example()

    def answers(self, network: nn.Module, config: RunConfig, asked: GenerateConfig) -> Answer | None:
        """What `bigtrain generate` prints for a prompt; None where no prompt can be answered. `config` is that of the
        checkpoint. Raises ConfigError for settings in `asked` that contradict each other.
        """
        return None

    def baselines(self, data: DataModule, splits: Sequence[str]) -> Baselines:
        """Trivial models fitted to the training split and measured on each of `splits`."""
        return Baselines()


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[torch.device]:
    """The network in eval mode meanwhile, and in its own mode again afterwards; yields its device."""
    was_training = network.training
    network.eval()
    try:
        yield next(network.parameters()).device
    finally:
        network.train(was_training)


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
