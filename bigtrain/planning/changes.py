"""Which settings make a training fit in memory, by arithmetic on a table of bytes: nothing is built or traced.

So it answers in a process that has just run out of memory, too: with the parts that are known then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

from bigtrain.planning.setup import FORWARD, Setup

WEIGHTS, GRADIENTS, OPTIMIZER, AVERAGE = "weights", "gradients", "optimizer state", "moving average"
ACTIVATIONS, COPIES, LOSS, UPDATE = "activations", "low-precision weights", "logits and loss", "optimizer step"
GATHERED, BUFFERS, BATCH = "gathered weights", "buffers", "batch"
STATE = (WEIGHTS, GRADIENTS, OPTIMIZER, AVERAGE)
PARTS = (*STATE, COPIES, GATHERED, ACTIVATIONS, LOSS, UPDATE, BUFFERS, BATCH)
"""Parts of the memory of a rank, in the order in which they are shown. `STATE` is what sharding splits."""

_MOST_RANKS = 1024
_KEPT_IN_FULL = 0.3  # of the activations, at most, where how much a block keeps is not known
_LOW_PRECISION = 0.75  # of fp32 activations: residual stream and norms stay fp32


@dataclass(frozen=True)
class Situation:
    """What a rank holds at its peak, and what it has. `parts` of `STATE` are those of a whole copy.

    `block_bytes`: what a block keeps for the backward pass of a micro-batch, and its input; (0, 0) where not known.
    """

    setup: Setup
    parts: Mapping[str, int]
    available: int
    num_blocks: int = 0
    in_blocks: float = 0.9  # share of the parameters
    block_bytes: tuple[int, int] = (0, 0)
    has_gpu: bool = False
    optimizer: str = ""  # name of the choice
    gpus_key: str = "trainer.gpus"  # the setting that says how many

    @property
    def needed(self) -> int:
        """Bytes of one rank."""
        return sum(per_rank(self.parts, self.setup, self.num_blocks, self.in_blocks).values())


@dataclass(frozen=True)
class Change:
    """Overrides that together make it fit, by this arithmetic."""

    overrides: tuple[str, ...]
    saves: int  # bytes of one rank
    time: float  # of a step, more: 0.33 is a third; below 0 it gets faster
    learning: bool = False  # whether the model learns otherwise: its rates want to be tuned again
    setup: Setup | None = None  # with the change
    optimizer: str = ""  # its choice, where that is another
    average: bool = True  # whether a moving average is kept, if it was

    @property
    def cost(self) -> tuple[bool, float, int]:
        """By which changes are ordered: first what leaves the learning alone, then by time."""
        return self.learning, round(self.time, 3), len(self.overrides)


def per_rank(parts: Mapping[str, int], setup: Setup, num_blocks: int, in_blocks: float) -> dict[str, int]:
    """What one rank holds: of sharded state its part, and the weights and gradients that are gathered meanwhile.

    FSDP gathers a block's weights before it runs, and the next block's meanwhile; what is in no block stays gathered.
    The gradients of both are whole until they are reduced.
    """
    if setup.shards == 1:
        return {part: size for part, size in parts.items() if part != GATHERED}
    found = {part: math.ceil(size / setup.shards) if part in (*STATE, UPDATE) else size for part, size in parts.items()}
    found.pop(COPIES, None)  # weights are gathered in low precision
    bytes_per_number = 4 if setup.precision == "fp32" else 2
    numbers = parts[WEIGHTS] / 4
    root, block = numbers * (1 - in_blocks), numbers * in_blocks / max(num_blocks, 1)
    gradients = GRADIENTS in parts
    found[GATHERED] = int(bytes_per_number * (root * (1 + gradients) + block * (2 + gradients)))
    return found


def cheapest_changes(situation: Situation, limit: int = 3) -> list[Change]:
    """The cheapest ways to make it fit, none with a kind of change that it could leave out; [] where there is none."""
    levers = list(_levers(situation))
    kinds = list(dict.fromkeys(lever.kind for lever in levers))
    found: dict[frozenset[str], Change] = {}
    for count in range(1, len(kinds) + 1):
        for together in combinations(kinds, count):
            if any(fewer <= set(together) for fewer in found):
                continue
            options = product(*([lever for lever in levers if lever.kind == kind] for kind in together))
            changes = [change for chosen in options if (change := _together(situation, chosen))]
            if changes:
                found[frozenset(together)] = min(changes, key=lambda change: change.cost)
    return sorted(found.values(), key=lambda change: change.cost)[:limit]


@dataclass(frozen=True)
class _Lever:
    kind: str
    overrides: tuple[str, ...]
    time: float
    learning: bool = False
    setup: Mapping[str, object] = field(default_factory=dict)  # what it changes in the setup
    optimizer: str = ""
    state: float | None = None  # optimizer state, in bytes per number
    average: bool = True


def _levers(situation: Situation) -> Iterator[_Lever]:
    setup, parts = situation.setup, situation.parts
    for size in _smaller(setup):
        time = 0.02 * math.log2(setup.micro_batch / size)  # measured on CPUs; a GPU that is not filled loses more
        yield _Lever("micro", (f"trainer.micro_batch_size={size}",), time, setup={"micro_batch": size})
    if setup.checkpointing == "off" and situation.num_blocks and parts.get(ACTIVATIONS):
        yield _Lever(
            "checkpointing", ("trainer.activation_checkpointing=full",), FORWARD, setup={"checkpointing": "full"}
        )
    if setup.precision == "fp32" and parts.get(ACTIVATIONS):
        yield _Lever("precision", ("trainer.precision=bf16",), -0.1, True, {"precision": "bf16"})
    if situation.has_gpu:
        yield from _sharding(setup, situation.gpus_key)
    if parts.get(OPTIMIZER):
        for name, state in (("lion", 4.0), ("adafactor", 0.1)):
            if name != situation.optimizer and parts[OPTIMIZER] > state * parts[WEIGHTS] / 4:
                yield _Lever("optimizer", (f"optimizer={name}",), 0.0, True, optimizer=name, state=state)
    if parts.get(AVERAGE):
        yield _Lever("average", ("trainer.ema_decay=null",), 0.0, True, average=False)


def _smaller(setup: Setup) -> Iterator[int]:
    """Smaller micro-batches that divide a rank's share, each at most half of the one before, largest first."""
    size = setup.micro_batch
    while size > 1:
        size = next(divisor for divisor in range(size // 2, 0, -1) if setup.share % divisor == 0)
        yield size


def _sharding(setup: Setup, gpus_key: str) -> Iterator[_Lever]:
    words = ("trainer.strategy=fsdp",) if setup.shards == 1 else ()
    if setup.ranks > 1 and words:
        yield _Lever("sharding", words, 0.05, setup={"strategy": "fsdp"})
    ranks = 2 * setup.ranks
    while ranks <= _MOST_RANKS:
        batch = ranks * -(-setup.batch // ranks)
        more = (f"{gpus_key}={ranks}", *([f"trainer.batch_size={batch}"] if batch != setup.batch else []))
        micro = next(
            size for size in range(min(setup.micro_batch, batch // ranks), 0, -1) if batch // ranks % size == 0
        )
        changes = {"strategy": "fsdp", "ranks": ranks, "batch": batch, "micro_batch": micro}
        yield _Lever("sharding", (*words, *more), 0.1 + 0.01 * math.log2(ranks), batch != setup.batch, changes)
        ranks *= 2


def _together(situation: Situation, levers: tuple[_Lever, ...]) -> Change | None:
    """The levers as one change, where it then fits."""
    setup, parts = situation.setup, dict(situation.parts)
    for lever in levers:
        setup = setup.changed(**lever.setup)
        if lever.state is not None:
            parts[OPTIMIZER] = int(lever.state * parts[WEIGHTS] / 4)
        if not lever.average:
            parts.pop(AVERAGE, None)
    parts |= of_setup(situation, setup)
    needed = sum(per_rank(parts, setup, situation.num_blocks, situation.in_blocks).values())
    if needed > situation.available:
        return None
    return Change(
        overrides=tuple(word for lever in levers for word in lever.overrides),
        saves=situation.needed - needed,
        time=math.prod(1 + lever.time for lever in levers) - 1,
        learning=any(lever.learning for lever in levers),
        setup=setup,
        optimizer=next((lever.optimizer for lever in levers if lever.optimizer), ""),
        average=all(lever.average for lever in levers),
    )


def of_setup(situation: Situation, setup: Setup) -> dict[str, int]:
    """The parts that follow the micro-batch, under another setup. The loss, computed in chunks, may not shrink."""
    before, parts = situation.setup, situation.parts
    if ACTIVATIONS not in parts:
        return {}
    share = setup.micro_batch / before.micro_batch
    activations = parts[ACTIVATIONS] * share
    if setup.checkpointing != before.checkpointing:
        kept, block_input = (size * share for size in situation.block_bytes)
        if kept:
            again = activations - situation.num_blocks * (kept - block_input) + kept
            activations = min(activations, max(again, situation.num_blocks * block_input + kept))
        else:
            activations *= _KEPT_IN_FULL
    changed = {BATCH: int(parts.get(BATCH, 0) * share)}
    if setup.precision != before.precision:
        activations *= _LOW_PRECISION
        changed[COPIES] = parts[WEIGHTS] // 2
    return changed | {ACTIVATIONS: int(activations)}
