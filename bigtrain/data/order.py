"""Which samples make up step t: a pure function of (seed, t), the same for any world size and any resume point.

`ShuffledOrder`, for samples of one size: global step t takes positions [t*B, (t+1)*B) of an endless sequence; position
p lies in epoch p // n, and its sample is permute(seed, epoch, p mod n) (`data/permutation.py`).

`BucketedOrder`, for samples that differ in length: which samples share a batch is fixed by (seed, lengths), so that
little is padded; the order of the batches is permuted anew in each epoch. Every epoch has the same number of batches.

`MixedOrder`, for samples from several sources: each has its exact part of every block of positions, and visits all of
its own samples once in each epoch of its own.

`ContiguousOrder`, for a recurrent model that carries its state: row b of every batch reads a stretch of its own, window
after window.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Protocol

import numpy as np

from bigtrain.config.run import TrainerConfig
from bigtrain.data.base import Source
from bigtrain.data.permutation import permute
from bigtrain.errors import ConfigError
from bigtrain.randomness import SeedDomain, mix

_POOL_BATCHES = 100  # batches' worth of samples that are sorted by length together
_MIXED_BLOCK, _LONGEST_MIXED_BLOCK = 1024, 1 << 16  # positions in which sources have their exact parts: at least, most
_BLOCK_STEPS = 64  # ids are made for this many steps at once: 5 µs a step; one by one it was 120


class Order(Protocol):
    """What each step reads. Nothing in it is state."""

    @property
    def samples_per_step(self) -> float:
        """On average."""
        ...

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest batch there is."""
        ...

    def ids(self, step: int) -> np.ndarray:
        """Sample ids, int64, of the global batch of `step`, over all ranks."""
        ...

    def epochs(self, step: int) -> np.ndarray:
        """The epoch that each of them lies in."""
        ...


class ShuffledOrder:
    """Every epoch visits every sample once, in an order of its own; batches run across epoch borders."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self._block = lru_cache(maxsize=2)(self._make_block)

    @property
    def samples_per_step(self) -> float:
        """On average."""
        return self.batch_size

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest batch there is."""
        return self.batch_size

    def ids(self, step: int) -> np.ndarray:
        """Sample ids (batch_size,) int64 of the global batch of `step`."""
        block, offset = divmod(step, _BLOCK_STEPS)
        return self._block(block)[offset]

    def epochs(self, step: int) -> np.ndarray:
        """The epoch (batch_size,) int64 that each of them lies in."""
        first = step * self.batch_size
        return np.arange(first, first + self.batch_size) // self.size

    def _make_block(self, block: int) -> np.ndarray:
        first = block * _BLOCK_STEPS * self.batch_size
        positions = np.arange(first, first + _BLOCK_STEPS * self.batch_size, dtype=np.int64)
        epochs, within = np.divmod(positions, self.size)
        ids = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = permute(self.seed, int(epoch), within[chosen], self.size)
        return ids.reshape(_BLOCK_STEPS, self.batch_size)


def block_counts(weights: Sequence[float]) -> np.ndarray:
    """How many positions of each block (S,) int64 belong to each source.

    Exactly in the proportion of the weights, read as decimal fractions, in the shortest block of 1,024 positions or
    more that allows it. Where none up to 65,536 does, one of that length, by largest remainders: no part is off by
    more than 1 / 65,536, and none is 0.
    """
    decimals = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(decimals) for weight in decimals]
    unit = lcm(*(share.denominator for share in shares))
    if unit <= _LONGEST_MIXED_BLOCK:
        size = unit * -(-_MIXED_BLOCK // unit)
        return np.array([int(share * size) for share in shares])
    spare = _LONGEST_MIXED_BLOCK - len(shares)  # beside one position for each
    counts = np.array([1 + int(share * spare) for share in shares])
    remainders = np.array([float(share * spare % 1) for share in shares])
    counts[np.argsort(-remainders, kind="stable")[: _LONGEST_MIXED_BLOCK - counts.sum()]] += 1
    return counts


class MixedOrder:
    """Samples of several sources, mixed by weight, whatever their sizes.

    Positions come in blocks of K; which of a block belong to which source is permuted anew in each, their numbers c
    (`block_counts`) are not. A block's r-th position of source s is the (block · c[s] + r)-th sample of s: that gives
    its epoch and place, and the place is permuted within the epoch. So the batch of a step costs O(1), at any step.
    """

    def __init__(self, sources: Sequence[Source], batch_size: int, seed: int):
        self.batch_size = batch_size
        self.seed = seed
        self.counts = block_counts([source.weight for source in sources])
        self._sizes = np.array([source.size for source in sources])
        self._block = lru_cache(maxsize=2)(self._make_block)

    @property
    def samples_per_step(self) -> float:
        return self.batch_size

    @property
    def smallest_batch(self) -> int:
        return self.batch_size

    def ids(self, step: int) -> np.ndarray:
        block, offset = divmod(step, _BLOCK_STEPS)
        return self._block(block)[0][offset]

    def epochs(self, step: int) -> np.ndarray:
        """The epoch of its own source that each sample lies in."""
        block, offset = divmod(step, _BLOCK_STEPS)
        return self._block(block)[1][offset]

    def _make_block(self, block: int) -> np.ndarray:
        """Ids and epochs (2, _BLOCK_STEPS, batch_size) of so many steps."""
        first = block * _BLOCK_STEPS * self.batch_size
        source, number = self._sources_of(np.arange(first, first + _BLOCK_STEPS * self.batch_size, dtype=np.int64))
        epochs, places = np.divmod(number, self._sizes[source])
        ids = (np.cumsum(self._sizes) - self._sizes)[source]
        for one in np.unique(source):
            seed = mix(self.seed, SeedDomain.SOURCE_ORDER, int(one))
            for epoch in np.unique(epochs[source == one]):
                chosen = (source == one) & (epochs == epoch)
                ids[chosen] += permute(seed, int(epoch), places[chosen], int(self._sizes[one]))
        return np.stack((ids, epochs)).reshape(2, _BLOCK_STEPS, self.batch_size)

    def _sources_of(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each position, its source and how many positions of that source come before it, block by block."""
        ends = np.cumsum(self.counts)
        blocks, within = np.divmod(positions, ends[-1])
        slots = np.empty_like(within)
        for block in np.unique(blocks):
            chosen = blocks == block
            key = mix(self.seed, SeedDomain.MIXED_SOURCES)
            slots[chosen] = permute(key, int(block), within[chosen], int(ends[-1]))
        source = np.searchsorted(ends, slots, side="right")
        return source, blocks * self.counts[source] + slots - (ends - self.counts)[source]


class BucketedOrder:
    """Batches of samples of similar length (N,), of `batch_size` samples each, or of at most `batch_tokens` tokens.

    Tokens are counted with padding: the longest sample of the batch times their number. No batch is a mere remainder:
    what is left over is shared out. Of SST-2 in batches of 32, 1.8 % of the tokens are padding (shuffled: 52 %): so
    little that leaving it out of the computation can't pay. Raises ValueError for a sample longer than `batch_tokens`.
    """

    def __init__(self, lengths: np.ndarray, seed: int, *, batch_size: int, batch_tokens: int | None = None):
        if batch_tokens is not None and lengths.max() > batch_tokens:
            raise ValueError(f"a sample of {lengths.max():,} tokens is longer than a batch of {batch_tokens:,}")
        self.size = len(lengths)
        self.seed = seed
        self._batches = _cut_batches(lengths, seed, batch_size, batch_tokens)
        self._epoch = lru_cache(maxsize=2)(self._order_of_epoch)

    @property
    def batches(self) -> Sequence[np.ndarray]:
        """The ids of every batch; each epoch has them in another order."""
        return self._batches

    @property
    def samples_per_step(self) -> float:
        """On average."""
        return self.size / len(self._batches)

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest batch there is."""
        return min(map(len, self._batches))

    def ids(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, len(self._batches))
        return self._batches[self._epoch(epoch)[position]]

    def epochs(self, step: int) -> np.ndarray:
        return np.full(len(self.ids(step)), step // len(self._batches))

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        count = len(self._batches)
        return permute(mix(self.seed, SeedDomain.BATCH_ORDER), epoch, np.arange(count), count)


class ContiguousOrder:
    """Windows of one long text, each of which goes on where the one before it ends; row b of every batch is stream b.

    An epoch has L = max(1, n // B) steps. In epoch e, stream b reads the windows (o + b·L + p) mod n for p = 0 … L - 1,
    with o = mix(seed, …, e) mod n. So each epoch leaves out the n - B·L < B windows before window o, other ones each
    time; where n < B, streams share windows.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = max(1, size // batch_size)

    @property
    def samples_per_step(self) -> float:
        return self.batch_size

    @property
    def smallest_batch(self) -> int:
        return self.batch_size

    def ids(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        first = mix(self.seed, SeedDomain.STREAM_OFFSET, epoch) % self.size
        return (first + np.arange(self.batch_size) * self.steps_per_epoch + position) % self.size

    def epochs(self, step: int) -> np.ndarray:
        return np.full(self.batch_size, step // self.steps_per_epoch)

    def begins(self, step: int) -> np.ndarray:
        """(batch_size,) bool: whether a stream begins with this window: the first of an epoch, or of the text."""
        return (self.ids(step) == 0) | (step % self.steps_per_epoch == 0)


def _cut_batches(lengths: np.ndarray, seed: int, batch_size: int, batch_tokens: int | None) -> list[np.ndarray]:
    size, lengths = len(lengths), np.maximum(lengths, 1).astype(np.int64)
    typical = batch_size if batch_tokens is None else max(1, int(batch_tokens / lengths.mean()))
    shuffled = permute(mix(seed, SeedDomain.POOLS), 0, np.arange(size), size)
    batches: list[np.ndarray] = []
    for pool in np.array_split(shuffled, -(-size // (typical * _POOL_BATCHES))):
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        if batch_tokens is None:
            batches += np.array_split(pool, -(-len(pool) // batch_size))
        else:
            batches += _cut_by_tokens(pool, lengths, batch_tokens)
    return batches


def _cut_by_tokens(pool: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Full batches of samples whose lengths descend; the last two are of one size, where the last had been smaller."""
    batches, first = [], 0
    while first < len(pool):
        count = batch_tokens // int(lengths[pool[first]])
        batches.append(pool[first : first + count])
        first += count
    if len(batches) > 1 and len(batches[-1]) < len(batches[-2]):
        batches[-2:] = np.array_split(np.concatenate(batches[-2:]), 2)
    return batches


def choose_order(
    settings: TrainerConfig,
    size: int,
    lengths: np.ndarray | None,
    seed: int,
    contiguous: bool,
    ranks: int,
    sources: Sequence[Source] = (),
) -> Order:
    """The order of `size` samples: bucketed where their `lengths` (N,) differ; `contiguous` for recurrent state; mixed
    where there are several `sources`.

    Raises ConfigError for a batch that these samples can't make up or `ranks` ranks can't share.
    """
    if lengths is None:
        _check_one_size(settings, ranks)
        order: Order = (ContiguousOrder if contiguous else ShuffledOrder)(size, settings.batch_size, seed)
        order = MixedOrder(sources, settings.batch_size, seed) if sources else order
    else:
        try:
            order = BucketedOrder(lengths, seed, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens)
        except ValueError as error:
            raise ConfigError.of(
                "CONFIG-COMBINATION", f"trainer.batch_tokens: {error}", fix="raise it, or shorten the samples"
            ) from error
    if order.smallest_batch < ranks:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"a batch of {order.smallest_batch} samples can't be shared among {ranks} ranks",
            cause="batches of texts differ in size; the smallest is what is left over",
            fix="train in fewer ranks, or change trainer.batch_tokens or trainer.batch_size",
        )
    return order


def _check_one_size(settings: TrainerConfig, ranks: int) -> None:
    """For samples of one size, every micro-batch of every rank must have equally many."""
    if settings.batch_tokens is not None:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.batch_tokens has no effect: the samples of this data are all of one size",
            fix="give trainer.batch_size",
        )
    micro_batch_size = settings.fixed_micro_batch_size or 1
    if settings.batch_size % (micro_batch_size * ranks):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.batch_size is {settings.batch_size}, which {ranks} ranks times "
            f"trainer.micro_batch_size={micro_batch_size} does not divide",
            fix=f"make it a multiple of {micro_batch_size * ranks}",
        )
