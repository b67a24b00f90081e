"""From sample ids to batches on the device.

There are no workers: a batch is one vectorised gather (microseconds). On a GPU one thread makes the next batch, in
pinned memory, while the step runs. How samples become a batch is passed in (the task's `collate`), so this file knows
no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.order import ContiguousOrder, Order
from bigtrain.distributed.world import World
from bigtrain.randomness import SeedDomain, sample_keys, uniforms

Batch = dict[str, Tensor]
Collate = Callable[[Batch], Batch]

_EVALUATION_STREAMS, _EVALUATION_WINDOWS = 32, 16  # at most so many streams, of about so many windows at least


class TrainLoader:
    """The micro-batches of each step for this rank; ranks of a tensor-parallel group have the same."""

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
        self.micro_batch_size = micro_batch_size  # may change between steps
        self._world = world
        self._seed = seed
        self.needs_partners = partners

    def ids(self, step: int) -> np.ndarray:
        """Sample ids of the step's global batch, over all ranks."""
        return self.order.ids(step)

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's share of the step, cut into micro-batches (None: one), still on the host.

        In a contiguous order with `streams` and `begins` beside what the task reads: see `stream_rows`.
        """
        ids, epochs = self._share(self.ids(step)), self._share(self.order.epochs(step))
        keys = sample_keys(self._seed, epochs, ids)
        size = self.micro_batch_size or len(ids)
        pieces = [slice(first, first + size) for first in range(0, len(ids), size)]
        batches = [
            self.collate(keyed_samples(self.dataset, ids[piece], keys[piece], self.needs_partners)) for piece in pieces
        ]
        if isinstance(self.order, ContiguousOrder):
            streams, begins = self._share(np.arange(self.order.batch_size)), self._share(self.order.begins(step))
            for batch, piece in zip(batches, pieces, strict=True):
                batch |= stream_rows(streams[piece], begins[piece])
        return batches

    def typical_batch(self) -> Batch:
        """A batch to count FLOPs on, on the host: one sample where all are of one size, else a step's first."""
        if self.dataset.lengths is None:
            first = np.zeros(1, dtype=np.int64)
            return self.collate(keyed_samples(self.dataset, first, sample_keys(0, 0, first), self.needs_partners))
        return self.micro_batches(0)[0]

    def _share(self, values: np.ndarray) -> np.ndarray:
        """What belongs to this rank of a step's values, one per sample."""
        world = self._world
        return values if world.data_size == 1 else np.array_split(values, world.data_size)[world.data_rank]


def stream_rows(streams: np.ndarray, begins: np.ndarray) -> Batch:
    """For models with recurrent state: the stream of each row, (B,) int64, and whether it begins there, (B,) bool."""
    return {"streams": torch.from_numpy(streams), "begins": torch.from_numpy(begins)}


def keyed_samples(dataset: Dataset, ids: np.ndarray, keys: np.ndarray, partners: bool) -> Batch:
    """The samples with `keys` (B,) int64, from which all that is random about each follows.

    With `partners`, another sample for each, drawn from the whole split by its key, under the names `partner_…`.
    """
    samples = dataset.gather(ids)
    if partners:
        drawn = (uniforms(keys, 1, SeedDomain.PARTNERS)[:, 0] * len(dataset)).astype(np.int64)
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
    lengths = dataset.lengths
    ids = np.arange(len(dataset)) if lengths is None else np.argsort(lengths, kind="stable")
    starts = range(0, len(dataset), batch_size)
    for round_start in range(0, len(starts), world.data_size):
        counts = round_start + world.data_rank < len(starts)
        start = starts[round_start + world.data_rank] if counts else 0
        chosen = ids[start : start + batch_size]
        yield collate(keyed_samples(dataset, chosen, sample_keys(SeedDomain.EVALUATION, 0, chosen), partners)), counts


def evaluation_streams(
    dataset: Dataset, collate: Collate, batch_size: int, world: World
) -> Iterator[tuple[Batch, bool]]:
    """Like `evaluation_batches`, but row after row of a batch goes on where it ended in the batch before.

    The split is cut into `evaluation_stream_count` stretches, whatever the batch and the ranks; `batch_size` of them
    are read at a time, from end to end, and rank r takes every W-th such group.
    """
    stretches = np.array_split(np.arange(len(dataset)), evaluation_stream_count(len(dataset)))  # the longer ones first
    groups = range(0, len(stretches), batch_size)
    for round_start in range(0, len(groups), world.data_size):
        counts = round_start + world.data_rank < len(groups)
        first = groups[round_start + world.data_rank] if counts else 0
        group = stretches[first : first + batch_size]
        for position in range(len(stretches[0])):
            rows = [stretch[position] for stretch in group if position < len(stretch)]
            ids = np.array(rows or [0])
            batch = collate(keyed_samples(dataset, ids, sample_keys(SeedDomain.EVALUATION, 0, ids), partners=False))
            streams = first + np.arange(len(ids))
            yield batch | stream_rows(streams, np.full(len(ids), position == 0)), counts and bool(rows)


def evaluation_stream_count(size: int) -> int:
    """Stretches that a split of so many windows is evaluated in. A few, so that hardly any window begins one."""
    return min(_EVALUATION_STREAMS, -(-size // _EVALUATION_WINDOWS))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch to the device, from pinned memory and without waiting where that is a GPU."""
    if device.type == "cpu":
        return batch
    return {
        name: value if value.is_cuda else value.pin_memory().to(device, non_blocking=True)
        for name, value in batch.items()
    }


class Prefetch:
    """The micro-batches of each step, on a GPU made in a thread while the step before is computed.

    A step's batches follow from its number alone, so looking ahead changes nothing. On a CPU the thread would take a
    core from the step itself: there they are made when asked for.
    """

    def __init__(self, loader: TrainLoader, device: torch.device):
        self._loader = loader
        self._pins = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, "prefetch") if device.type != "cpu" else None
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        """See `TrainLoader.micro_batches`; pinned for a GPU. What fails in the thread is raised here."""
        if self._thread is None:
            return self._loader.micro_batches(step)
        if self._next is None or self._next[0] != step:
            self._ask(self._thread, step)
        assert self._next is not None
        batches = self._next[1].result()
        self._ask(self._thread, step + 1)
        return batches

    def forget(self) -> None:
        """Makes the next batches anew: the loader cuts them otherwise now."""
        self._next = None

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _ask(self, thread: ThreadPoolExecutor, step: int) -> None:
        self._next = step, thread.submit(self._make, step)

    def _make(self, step: int) -> list[Batch]:
        batches = self._loader.micro_batches(step)
        if not self._pins:
            return batches
        return [{name: value.pin_memory() for name, value in batch.items()} for batch in batches]
