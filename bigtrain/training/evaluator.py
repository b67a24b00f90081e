"""Evaluation: a whole split, once, in order, as the task's metrics. Train, eval and finetune all come here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataModule
from bigtrain.data.loader import evaluation_batches, to_device
from bigtrain.distributed.world import World
from bigtrain.tasks.base import Batch, Task, TrainingModule, evaluation_totals
from bigtrain.training.precision import ResolvedPrecision


@dataclass
class Evaluation:
    """`metrics` of a split, and the summed `totals` they were computed from (a confusion matrix is among them)."""

    metrics: dict[str, float]
    totals: dict[str, Tensor]


class Evaluator:
    """Evaluates one module on the splits of one data module."""

    def __init__(
        self,
        module: TrainingModule,
        task: Task,
        data: DataModule,
        precision: ResolvedPrecision,
        batch_size: int,
        world: World,
    ):
        self.module = module
        self.task = task
        self.data = data
        self._precision = precision
        self._batch_size = batch_size
        self._world = world

    def has(self, split: str) -> bool:
        """Whether the split holds any sample."""
        return self.data.spec.sizes.get(split, 0) > 0

    def batches(self, split: str) -> Iterator[tuple[Batch, bool]]:
        """This rank's batches on the device, and whether each counts; see `evaluation_batches`."""
        dataset = self.data.dataset(split)
        collate = lambda samples: self.task.collate(samples, training=False)  # noqa: E731
        for batch, counts in evaluation_batches(
            dataset, collate, self._batch_size, self._world, self.task.needs_partners
        ):
            yield to_device(batch, self._world.device), counts

    def sample_metrics(self, split: str) -> dict[str, float]:
        """The metrics of one batch: which there are."""
        with evaluating(self.module), self._precision.autocast(self._world.device):
            batch, _ = next(self.batches(split))
            totals = evaluation_totals(self.module(batch))
        return self.task.metrics({name: value.cpu() for name, value in totals.items()}, split)

    def evaluate(self, split: str, stop: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """Metrics over the whole split; None when `stop` asked for an end before it was done.

        `stop` is asked before every batch, equally often on all ranks, and must answer all of them alike.
        """
        totals: dict[str, Tensor] = {}
        self._world.share_buffers(self.module)
        with evaluating(self.module), self._precision.autocast(self._world.device):
            for batch, counts in self.batches(split):
                if stop():
                    return None
                for name, value in evaluation_totals(self.module(batch)).items():
                    value = value if counts else torch.zeros_like(value)
                    totals[name] = totals[name] + value if name in totals else value
        totals = {name: self._world.sum(value).cpu() for name, value in totals.items()}
        return Evaluation(self.task.metrics(totals, split), totals)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is restored. Nothing here draws random numbers."""
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(was_training)
