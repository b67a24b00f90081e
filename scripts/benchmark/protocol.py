"""How a row is measured: sides are built, their first losses compared, then they are timed block by block in turns.

A side whose losses differ from bigtrain's is not timed. The first peer is timed twice in each round (A/A): the noise
floor.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.frameworks import PEERS, Remote, make_peer, missing
from benchmark.rows import Row
from benchmark.sides import DTYPES, Bigtrain, Side, pinned

# Largest relative difference of the first loss, before any update, and of all: sides round differently, and AdamW's
# first steps, which are signs of gradients, carry that on.
TOLERANCES = {"fp32": (1e-5, 1e-3), "tf32": (1e-3, 5e-3), "bf16": (5e-3, 2e-2)}
OURS, AUTO, AGAIN = "bigtrain", "bigtrain auto", " again"
GATE_STEPS = 20
MOST_STEPS = 1000  # of a block
QUICK_SECONDS = 24  # of all blocks with --quick, where single steps are so slow that they take that long


@dataclass(frozen=True)
class Protocol:
    """`blocks` of each side, for about `seconds` in all; `gate` steps must agree, of which in `gate_seconds` at least
    two.
    """

    device: torch.device
    blocks: int = 5
    seconds: float = 30.0
    gate: int = GATE_STEPS
    gate_seconds: float = 60.0
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.on_gpu:
            torch.cuda.synchronize()


def precisions(row: Row, protocol: Protocol) -> tuple[str, ...]:
    """In which a row is measured, like for like."""
    if protocol.on_gpu:
        return row.gpu_precisions
    return ("fp32",) if protocol.quick else ("fp32", "bf16")


def chosen_peers(row: Row, protocol: Protocol, asked: Sequence[str] | None) -> list[str]:
    """The peers of a row: all that the row allows, fewer with `--quick`, or those that were asked for."""
    if row.peers is not None:
        return [peer for peer in row.peers if asked is None or peer in asked or peer not in PEERS]
    peers = [peer for peer in PEERS if protocol.on_gpu or peer != "compiled"]
    if asked is not None:
        return [peer for peer in PEERS if peer in asked]
    return peers if row.quick or not protocol.quick else ["compiled" if protocol.on_gpu else "bare"]


def measure(name: str, row: Row, precision: str, peers: Sequence[str], protocol: Protocol) -> dict[str, Any]:
    """A row in one precision: figures of every side, as they go into the JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(name, row, precision, protocol, Path(folder))
        try:
            alone = protocol.on_gpu and memory_gib(protocol.device) < row.gpu_gib
            session.run(peers, alone)
        finally:
            session.close()
        return session.result


class Session:
    """The sides of one measurement and what was found; see `measure`."""

    def __init__(self, name: str, row: Row, precision: str, protocol: Protocol, folder: Path):
        self.name, self.row, self.precision = name, row, precision
        self.protocol, self.folder = protocol, folder
        self.sides: dict[str, Side] = {}
        self.resident: dict[str, int] = {}  # bytes that a side keeps on a GPU
        self.accounted = allocated(protocol)
        self.step_seconds: dict[str, float] = {}  # of the last of a side's first steps
        units, unit = row.units
        self.result: dict[str, Any] = {"row": name, "precision": precision, "units": units, "unit": unit, "sides": {}}

    def run(self, peers: Sequence[str], alone: bool) -> None:
        """Measures bigtrain and the peers: all at once in turns or, where memory lacks it, one after the other."""
        ours = self.build_ours()
        gate = self.gate_steps(ours)
        self.result["interleaved"] = not alone
        batches = ready_batches(self.row, ours, gate, self.protocol)
        self.admit(OURS, ours, gate, {})
        reference = ours.losses
        built = (self.row, ours.weights, batches, self.precision, self.protocol.device)
        if alone:
            self.time()
            del ours
            self.close()
        if self.precision == "fp32":
            self.try_side(AUTO, lambda: self.bigtrain("auto", self.row.optimizer), reference, gate)
        for peer in peers:
            if missing(peer):
                self.result["sides"][peer] = {"error": f"not installed: {missing(peer)}"}
                continue
            self.try_side(peer, lambda peer=peer: self.make(peer, built), reference, gate)  # type: ignore[misc]
            if alone:
                self.time()
                self.close()
        if not alone:
            self.time()

    def build_ours(self) -> Bigtrain:
        """bigtrain in this row's precision, with the FLOPs of a step."""
        ours = self.bigtrain(self.precision, self.row.optimizer)
        counted = ours.trainer.throughput.flops_per_sample * self.row.batch
        self.result["flops"] = self.row.flops(counted)
        return ours

    def bigtrain(self, precision: str, optimizer: str) -> Bigtrain:
        """A bigtrain side."""
        return Bigtrain(self.row, precision, self.protocol.device, self.folder / optimizer / precision, optimizer)

    def make(self, peer: str, built: tuple[Any, ...]) -> Side:
        """A peer by name; "adamw": bigtrain with that optimizer."""
        if peer == "adamw":
            return self.bigtrain(self.precision, peer)
        return make_peer(peer, built, self.folder / peer)

    def gate_steps(self, ours: Bigtrain) -> int:
        """How many losses are compared: fewer where steps are so slow that there is no time for all."""
        if self.row.gate is not None:
            return self.row.gate
        step_seconds = self.result["flops"] / (2e14 if self.protocol.on_gpu else 2e11)
        return max(2, min(self.protocol.gate, int(self.protocol.gate_seconds / step_seconds)))

    def try_side(self, name: str, build: Callable[[], Side], reference: list[Any], gate: int) -> None:
        """Builds a side and compares its losses; a failure is a line of the table, and the others go on."""
        try:
            side = build()
            if name == AUTO and getattr(side, "precision", "") == "fp32":
                self.result["auto"] = "fp32"
                return side.close()
            self.admit(name, side, gate, {"losses": reference})
        except Exception as error:  # of any library
            self.sides.pop(name, None)
            self.result["sides"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        self.accounted = allocated(self.protocol)
        return None

    def admit(self, name: str, side: Side, gate: int, reference: dict[str, list[Any]]) -> None:
        """A side's first steps; it is timed later if they agree with bigtrain's."""
        say(f"{self.name} {self.precision}: {name}")
        protocol = self.protocol
        self.sides[name] = side
        side.keep, started = gate, time.perf_counter()
        side.advance(max(1, gate - 1))
        protocol.wait()
        last = time.perf_counter()
        side.advance(1)
        protocol.wait()
        self.step_seconds[name] = time.perf_counter() - last
        figures: dict[str, Any] = {"first_steps_seconds": time.perf_counter() - started, "gate_steps": gate}
        self.resident[name], self.accounted = allocated(protocol) - self.accounted, allocated(protocol)
        side.losses = [float(loss) for loss in side.losses]
        if isinstance(side, Bigtrain):
            figures["resolved"] = side.resolved
            if name == AUTO:
                self.result["auto"] = side.precision
        if reference:
            figures["loss_gap"] = loss_gap(side.losses, reference["losses"])
            first, later = self.tolerances(name)
            figures["first_gap"] = loss_gap(side.losses[:1], reference["losses"][:1])
            figures["agrees"] = figures["first_gap"] <= first and figures["loss_gap"] <= later
            if not figures["agrees"]:
                side.close()
                del self.sides[name]
        self.result["sides"][name] = figures

    def tolerances(self, name: str) -> tuple[float, float]:
        """Of the losses of a side against bigtrain's in this row's precision."""
        if self.precision == "bf16" or name == AUTO:
            return TOLERANCES["bf16"]
        return TOLERANCES["tf32" if self.protocol.on_gpu else "fp32"]

    def time(self) -> None:
        """Blocks of every side that was admitted, in turns; then its memory and its kernels, if it runs in here."""
        again = next((name for name in self.sides if name not in (OURS, AUTO)), None)
        turns: dict[str, Callable[[int], None]] = {name: side.advance for name, side in self.sides.items()}
        if again is not None and "again" not in self.result:
            self.result["again"] = again
            turns[again + AGAIN] = self.sides[again].advance
            self.step_seconds[again + AGAIN] = self.step_seconds[again]
        say(f"{self.name} {self.precision}: timing {', '.join(turns)}")
        for name, seconds in interleaved(turns, self.step_seconds, self.protocol).items():
            self.result["sides"].setdefault(name, {})["seconds"] = seconds
        if self.protocol.on_gpu:
            for name, side in self.sides.items():
                if not isinstance(side, Remote):
                    self.result["sides"][name] |= on_device(side, self.resident[name])

    def close(self) -> None:
        """Ends the sides and frees their memory."""
        for side in self.sides.values():
            side.close()
        self.sides.clear()
        gc.collect()
        if self.protocol.on_gpu:
            torch.cuda.empty_cache()
        self.accounted = allocated(self.protocol)
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()


def ready_batches(row: Row, ours: Bigtrain, count: int, protocol: Protocol) -> list[dict[str, torch.Tensor]]:
    """The batches of bigtrain's first steps, for the peers; pinned where there is a GPU."""
    return pinned([row.ready(ours.trainer.loader, step) for step in range(count)], protocol.device)


def interleaved(
    sides: dict[str, Callable[[int], Any]], expected: dict[str, float], protocol: Protocol
) -> dict[str, list[float]]:
    """Seconds a step of each side, block after block in turns. Blocks take about equally long: a side that is expected
    to be fast does more steps.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    block_seconds = protocol.seconds / (protocol.blocks * len(sides))
    steps = {name: max(1, min(MOST_STEPS, round(block_seconds / expected[name]))) for name in sides}
    rounds = protocol.blocks
    if protocol.quick:
        rounds = max(1, min(rounds, int(QUICK_SECONDS / sum(steps[name] * expected[name] for name in sides))))
    for _ in range(rounds):
        for name, advance in sides.items():
            protocol.wait()
            started = time.perf_counter()
            advance(steps[name])
            protocol.wait()
            times[name].append((time.perf_counter() - started) / steps[name])
    return times


def loss_gap(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference, infinite where a loss is missing or not a number."""
    if len(losses) != len(reference) or not losses:
        return float("inf")
    gaps = [abs(loss - other) / abs(other) for loss, other in zip(losses, reference, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("inf")


def ceiling(protocol: Protocol, precision: str) -> float:
    """FLOP/s of the fastest product of square matrices of random numbers, in about a second."""
    from bigtrain.tracking.throughput import measured_peak_flops

    return measured_peak_flops(protocol.device, DTYPES[precision], seconds=1.0).flops


def allocated(protocol: Protocol) -> int:
    """Bytes of tensors on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated() if protocol.on_gpu else 0


def memory_gib(device: torch.device) -> float:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30


def on_device(side: Side, resident: int) -> dict[str, Any]:
    """Of one more step: the peak of the side's memory (what it keeps, and what the step adds), and its kernels."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side.advance(1)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before + resident
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        side.advance(1)
        torch.cuda.synchronize()
    return {"peak_bytes": peak} | count_kernels(profile.events())


def count_kernels(events: Sequence[Any]) -> dict[str, int]:
    """`kernels` that ran on the device, copies among them, and `launches` by the host (a replayed graph is one)."""
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    starts = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    launches = sum(event.name.startswith(starts) for event in events)
    return {"kernels": kernels, "launches": launches}


def say(sentence: str) -> None:
    """Progress, on stderr."""
    print(f"bench: {time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
