"""The time of a step, by what bounds it: arithmetic, the device's memory, or the network; over numbers of GPUs.

Arithmetic takes FLOPs / (peak x share). The share that training reaches of the peak of products is stated for each kind
of model (`SHARES`), or given. Communication is taken to go on beside it, so a step takes the longest of the three.
"""

from __future__ import annotations

from dataclasses import dataclass

from bigtrain.config.kinds import ModelConfig
from bigtrain.planning.config import Accelerator
from bigtrain.planning.setup import Setup

# Kind of model → share of the peak of products, (on a GPU, on a CPU). GPU: GPT-2 and 1.5B on an H100, 19 to 47 %
# (docs/gpu.md); CPU: docs/performance.md. Small models reach less: their steps are launches, not arithmetic.
SHARES = {"tokens": (0.40, 0.55), "recurrence": (0.10, 0.35), "images": (0.25, 0.45), "vectors": (0.20, 0.30)}


def kind_of(model: ModelConfig) -> str:
    """The row of `SHARES`."""
    if hasattr(model, "cell"):
        return "recurrence"
    if "images" in model.consumes:
        return "images" if "vectors" not in model.consumes else "vectors"
    return "tokens" if "text" in model.consumes or "pairs" in model.consumes else "vectors"


@dataclass(frozen=True)
class Work:
    """What a training computes and moves, apart from how it is spread."""

    flops_per_sample: float  # forward and backward, nothing recomputed
    traffic_per_sample: float  # bytes of memory that operations read and write, nothing recomputed
    weights: int  # bytes, fp32
    peak_flops: float
    share_of_peak: float
    sheet: Accelerator | None
    shared: bool = False  # whether all ranks compute on one device, a CPU


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step, by bound, and bytes that each rank sends; None where the device's speed is not known."""

    setup: Setup
    compute: float
    memory: float | None
    network: float | None
    sent: float  # bytes of a rank in a step

    @property
    def seconds(self) -> float:
        """Of a step."""
        return max(self.compute, self.memory or 0.0, self.network or 0.0)

    @property
    def bound(self) -> str:
        """What takes longest."""
        times = {"compute": self.compute, "memory bandwidth": self.memory or 0.0, "network": self.network or 0.0}
        return max(times, key=times.__getitem__)


def step_cost(work: Work, setup: Setup) -> StepCost:
    """Of a step of this setup."""
    again = 1 + setup.computed_again
    flops = work.flops_per_sample * setup.share * again
    sheet = work.sheet
    memory = None if sheet is None else work.traffic_per_sample * setup.share * again / sheet.bandwidth
    inside, outside = sent_bytes(work, setup)
    network = None if sheet is None else inside / sheet.link + outside / sheet.network
    peak = work.peak_flops / (setup.ranks if work.shared else 1)
    return StepCost(setup, flops / (peak * work.share_of_peak), memory, network, inside + outside)


def sent_bytes(work: Work, setup: Setup) -> tuple[float, float]:
    """What a rank sends in a step inside its node, and to other nodes.

    Rings: of n ranks each sends (n - 1) / n of what is gathered or scattered, and twice that of what is averaged.
    DDP averages fp32 gradients once a step. FSDP gathers the weights for each forward and each backward pass, and
    scatters the gradients after each; HSDP does so inside a node, and averages the parts over nodes.
    """
    ranks, per_node = setup.ranks, setup.ranks_per_node
    if ranks == 1:
        return 0.0, 0.0
    one_node = ranks <= per_node
    if setup.strategy == "ddp":
        sent = 2 * (ranks - 1) / ranks * work.weights
        return (sent, 0.0) if one_node else (0.0, sent)
    numbers = work.weights / 4
    gathered = (4 if setup.precision == "fp32" else 2) * numbers
    members = setup.shards
    sent = setup.passes * (members - 1) / members * (2 * gathered + work.weights)
    if one_node or setup.strategy == "fsdp":
        return (sent, 0.0) if one_node else (0.0, sent)
    nodes = -(-ranks // per_node)
    return sent, 2 * (nodes - 1) / nodes * work.weights / members


def counts_up_to(ranks: int) -> list[int]:
    """1, 2, 4, … and `ranks`."""
    found = [1]
    while 2 * found[-1] < ranks:
        found.append(2 * found[-1])
    return [*found, ranks] if ranks > 1 else found
