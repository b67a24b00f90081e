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
from bigtrain.data.order import ShuffledOrder
from bigtrain.distributed.world import World

Batch = dict[str, Tensor]
Collate = Callable[[Batch], Batch]


class TrainLoader:
    """The micro-batches of each step for this rank."""

    def __init__(self, dataset: Dataset, collate: Collate, order: ShuffledOrder, micro_batch_size: int, world: World):
        self.dataset = dataset
        self.order = order
        self.collate = collate
        self._micro_batch_size = micro_batch_size
        self._world = world

    def ids(self, step: int) -> np.ndarray:
        """Sample ids of the step's global batch, over all ranks."""
        return self.order.ids(step)

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's share of the step, cut into micro-batches, still on the host."""
        ids = np.array_split(self.ids(step), self._world.size)[self._world.rank]
        cuts = range(0, len(ids), self._micro_batch_size)
        return [self.collate(self.dataset.gather(ids[cut : cut + self._micro_batch_size])) for cut in cuts]


def evaluation_batches(
    dataset: Dataset, collate: Collate, batch_size: int, world: World
) -> Iterator[tuple[Batch, bool]]:
    """The whole split once, in order, still on the host; rank r takes every W-th batch.

    Every rank gets equally many: where the last round has none left for it, the first batch again, which does not
    count (False).
    """
    starts = range(0, len(dataset), batch_size)
    for round_start in range(0, len(starts), world.size):
        counts = round_start + world.rank < len(starts)
        start = starts[round_start + world.rank] if counts else 0
        yield collate(dataset.gather(np.arange(start, min(start + batch_size, len(dataset))))), counts


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch to the device; from pinned memory and without waiting where that is a GPU."""
    if device.type == "cpu":
        return batch
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}
