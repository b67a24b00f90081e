"""Evaluation: one pass over a split, or over a fixed sample of it, as the task's metrics. The trainer and the commands
share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bigtrain.data.base import DataModule, Dataset, Source, by_source
from bigtrain.data.fixed_sample import TRAIN_SAMPLE
from bigtrain.data.loader import evaluation_batches, evaluation_streams, to_device
from bigtrain.distributed.strategy import gathered, inference, reshard
from bigtrain.distributed.world import World
from bigtrain.tasks.base import Batch, Task, TrainingModule, evaluation_totals
from bigtrain.tasks.generation import eagerly
from bigtrain.tracking.status_line import status_line
from bigtrain.training.precision import ResolvedPrecision
from bigtrain.training.recurrent_state import carries_state, evaluation_state


@dataclass
class Evaluation:
    """`metrics` of a split, and the summed `totals` they were computed from (such as a confusion matrix)."""

    metrics: dict[str, float]
    totals: dict[str, Tensor]


class Evaluator:
    """Evaluates one module on the splits of one data module.

    `samples`: datasets that stand in for splits while a run trains; the split TRAIN_SAMPLE is one of them only.
    """

    def __init__(
        self,
        module: TrainingModule,
        task: Task,
        data: DataModule,
        precision: ResolvedPrecision,
        batch_size: int,
        world: World,
        samples: Mapping[str, Dataset] | None = None,
    ):
        self.module = module
        self.task = task
        self.data = data
        self._precision = precision
        self.batch_size = batch_size
        self._world = world
        self._samples = samples or {}

    def has(self, split: str) -> bool:
        """Whether the split holds any sample."""
        return split in self._samples or self.data.spec.sizes.get(split, 0) > 0

    def is_sampled(self, split: str) -> bool:
        """Whether evaluations in training read only a sample of it."""
        return split in self._samples

    def sampling(self) -> str:
        """What evaluations in training read of the validation split, as a sentence; "" where they read all."""
        if not self.is_sampled("val"):
            return ""
        size, whole = len(self._samples["val"]), self.data.spec.sizes["val"]
        return f"in training {size:,} of {whole:,} val samples, always the same; at the end all"

    def dataset(self, split: str, final: bool = False) -> Dataset:
        """The samples of a split; `final`: all of them, else those that an evaluation in training reads."""
        if split in self._samples and (split == TRAIN_SAMPLE or not final):
            return self._samples[split]
        return self.data.dataset(split)

    def batches(self, split: str, final: bool = False) -> Iterator[tuple[Batch, bool]]:
        """This rank's batches on the device, and whether each counts; see `evaluation_batches`."""
        return ((batch, counts) for _, batch, counts in self._batches_by_source(split, final))

    def _batches_by_source(self, split: str, final: bool) -> Iterator[tuple[str, Batch, bool]]:
        """Each with the name of the source that all of it is from; "" where there are no several."""
        for source, dataset in by_source(self.dataset(split, final)):
            for batch, counts in self._batches_of(dataset):
                yield source, to_device(batch, self._world.device), counts

    def _batches_of(self, dataset: Dataset) -> Iterator[tuple[Batch, bool]]:
        collate = lambda samples: self.task.collate(samples, training=False)  # noqa: E731
        if carries_state(self.module.network, dataset):
            return evaluation_streams(dataset, collate, self.batch_size, self._world)
        return evaluation_batches(dataset, collate, self.batch_size, self._world, self.task.needs_partners)

    def sample_metrics(self, split: str) -> dict[str, float]:
        """The metrics of one batch: to know their names."""
        whole = gathered(self.module) if self.task.measures_more_at_end else nullcontext()
        with self._evaluating(split), whole:
            batch, _ = next(self.batches(split))
            totals = {name: value.cpu() for name, value in self._totals(batch, final=False).items()}
        sources = self.dataset(split).sources
        return self._metrics({source.name: totals for source in sources} or {"": totals}, sources, split)

    def evaluate(self, split: str, stop: Callable[[], bool] = lambda: False, final: bool = False) -> Evaluation | None:
        """Metrics over a split, or None when `stop` returned True before its end. `final`: at the end of a run, where
        all of the split is read, and a task may measure what takes longer.

        `stop` is called before every batch, equally often on all ranks, and must return the same on all of them.
        """
        of_sources: dict[str, dict[str, Tensor]] = {}
        self._world.broadcast_buffers(self.module.network)
        # Of what each rank writes for itself, one writes more than another.
        whole = gathered(self.module) if self.task.measures_more_at_end else nullcontext()
        with self._evaluating(split, final), whole, self._status(split, final) as batch_begins:
            for source, batch, counts in self._batches_by_source(split, final):
                batch_begins()
                if stop():
                    return None
                with self._compiled_as_before(batch):
                    batch_totals = self._totals(batch, final)
                totals = of_sources.setdefault(source, {})
                for name, value in batch_totals.items():
                    value = value if counts else torch.zeros_like(value)
                    totals[name] = totals[name] + value if name in totals else value
        of_sources = {
            source: {name: self._world.sum(value).cpu() for name, value in totals.items()}
            for source, totals in of_sources.items()
        }
        sources = self.dataset(split, final).sources
        return Evaluation(self._metrics(of_sources, sources, split), _together(of_sources, sources))

    def _compiled_as_before(self, batch: Batch) -> AbstractContextManager:
        """A batch of another size, as the last of a split, runs eagerly: compiling for its shape would take longer."""
        size = len(next(iter(batch.values())))
        return nullcontext() if size == self.batch_size else eagerly(self.module.network)

    def _metrics(
        self, of_sources: dict[str, dict[str, Tensor]], sources: Sequence[Source], split: str
    ) -> dict[str, float]:
        """Of all together, and the loss of each source as `<source>_loss`."""
        measure = lambda totals: self.task.metrics(totals, "train" if split == TRAIN_SAMPLE else split)  # noqa: E731
        metrics = measure(_together(of_sources, sources))
        if "" in of_sources or "loss" not in metrics:
            return metrics
        return metrics | {f"{source}_loss": measure(totals)["loss"] for source, totals in of_sources.items()}

    def _totals(self, batch: Batch, final: bool) -> dict[str, Tensor]:
        """Sums over this batch, with those of the targets that the network generates, where the task scores them."""
        totals = evaluation_totals(self.module(batch))
        written = self.task.generated_statistics(self.module.network, batch, final)
        return totals | {name: value.double() for name, value in written.items()}

    @contextmanager
    def _status(self, split: str, final: bool) -> Iterator[Callable[[], None]]:
        """A status line on rank 0 with the fraction of batches begun; call the result at each batch."""
        if not self._world.is_main:
            yield lambda: None
            return
        of_split = "a sample of train" if split == TRAIN_SAMPLE else split
        batches = max(1, len(self.dataset(split, final)) / (self.batch_size * self._world.data_size))
        begun = itertools.count()
        with status_line(f"Evaluating {of_split}", "") as report:
            yield lambda: report(min(1.0, next(begun) / batches))

    @contextmanager
    def _evaluating(self, split: str, final: bool = False) -> Iterator[None]:
        """Evaluation mode, no gradients, the run's precision; mode and recurrent state are put back afterwards.

        No random numbers are drawn.
        """
        was_training = self.module.training
        self.module.eval()
        state = evaluation_state(self.module, self.dataset(split, final))
        try:
            with inference(self.module), state, self._precision.autocast(self._world.device):
                yield
        finally:
            reshard(self.module)
            self.module.train(was_training)


def _together(of_sources: dict[str, dict[str, Tensor]], sources: Sequence[Source]) -> dict[str, Tensor]:
    """Totals in which each source counts as its weight says, as in training, whatever the size of its split."""
    if "" in of_sources:
        return of_sources[""]
    scale = sum(source.size for source in sources) / sum(source.weight for source in sources)
    weights = {source.name: source.weight * scale / source.size for source in sources}
    parts = [{name: weights[source] * value for name, value in of_sources[source].items()} for source in of_sources]
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}
