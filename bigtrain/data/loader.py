"""From sample ids to batches on the device.

There are no workers: a batch is one vectorised gather (microseconds), and on a GPU the host runs ahead of the device,
so copying from pinned memory overlaps with compute by itself. How samples become a batch is passed in (the task's
`collate`), so this file knows no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.order import Order
from bigtrain.data.randomness import sample_keys, uniforms
from bigtrain.distributed.world import World

Batch = dict[str, Tensor]
Collate = Callable[[Batch], Batch]

_EVALUATION = 0xE7A1  # the seed of what is random about samples in an evaluation: the same for every run
_PARTNERS = 0x9A127  # the domain of the numbers that choose partners


class TrainLoader:
    """The micro-batches of each step for this rank."""

    def __init__(
        self,
        dataset: Dataset,
        collate: Collate,
        order: Order,
        micro_batch_size: int | None,
        world: World,
        *,
        seed: int = 0,
        partners: bool = False,
    ):
        self.dataset = dataset
        self.order = order
        self.collate = collate
        self._micro_batch_size = micro_batch_size
        self._world = world
        self._seed = seed
        self.partners = partners

    def ids(self, step: int) -> np.ndarray:
        """Sample ids of the step's global batch, over all ranks."""
        return self.order.ids(step)

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's share of the step, cut into micro-batches (None: one), still on the host."""
        ids = np.array_split(self.ids(step), self._world.size)[self._world.rank]
        epochs = np.array_split(self.order.epochs(step), self._world.size)[self._world.rank]
        keys = sample_keys(self._seed, epochs, ids)
        size = self._micro_batch_size or len(ids)
        pieces = (slice(first, first + size) for first in range(0, len(ids), size))
        return [self.collate(keyed_samples(self.dataset, ids[piece], keys[piece], self.partners)) for piece in pieces]


def keyed_samples(dataset: Dataset, ids: np.ndarray, keys: np.ndarray, partners: bool) -> Batch:
    """The samples with `keys` (B,) int64, from which all that is random about each follows.

    With `partners`, another sample for each, drawn from the whole split by its key, under the names `partner_…`.
    """
    samples = dataset.gather(ids)
    if partners:
        drawn = (uniforms(keys, 1, _PARTNERS)[:, 0] * len(dataset)).astype(np.int64)
        samples |= {f"partner_{name}": value for name, value in dataset.gather(drawn).items()}
    samples["keys"] = torch.from_numpy(keys.view(np.int64))
    return samples


def evaluation_batches(
    dataset: Dataset, collate: Collate, batch_size: int, world: World, partners: bool = False
) -> Iterator[tuple[Batch, bool]]:
    """The whole split once, still on the host; rank r takes every W-th batch. In order, or by length where that varies.

    What is random about a sample is the same in every evaluation. Every rank gets equally many batches: where the last
    round has none left for it, the first batch again, which does not count (False).
    """
    lengths = lengths_of(dataset)
    ids = np.arange(len(dataset)) if lengths is None else np.argsort(lengths, kind="stable")
    starts = range(0, len(dataset), batch_size)
    for round_start in range(0, len(starts), world.size):
        counts = round_start + world.rank < len(starts)
        start = starts[round_start + world.rank] if counts else 0
        chosen = ids[start : start + batch_size]
        yield collate(keyed_samples(dataset, chosen, sample_keys(_EVALUATION, 0, chosen), partners)), counts


def lengths_of(dataset: Dataset) -> np.ndarray | None:
    """Tokens (N,) of each sample of a dataset whose samples differ in length; else None."""
    return getattr(dataset, "lengths", None)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch to the device; from pinned memory and without waiting where that is a GPU."""
    if device.type == "cpu":
        return batch
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}
