"""How fast, and how near to what the machine can do: speed meter, measured peak, FLOPs of a module, memory.

Time spent on evaluation and checkpoints is not training time: the loop pauses the meter around it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bigtrain.tracking.tracker import Row


class Throughput:
    """Speed since the last row, without the time between `pause` and `resume`.

    `samples` and `tokens` are the run's totals so far, so that steps of any size count right. On a GPU the
    caller reads the loss first: that waits for the work whose time is taken.
    """

    def __init__(
        self,
        flops_per_sample: float,
        peak_flops: float | None,
        samples: int = 0,
        tokens: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._flops_per_sample = flops_per_sample
        self._peak_flops = peak_flops
        self._clock = clock
        self._samples, self._tokens = samples, tokens
        self._active_seconds = 0.0  # of the whole run so far, up to self._since
        self._row_seconds = 0.0  # active_seconds at the last row
        self._since: float | None = clock()

    @property
    def active_seconds(self) -> float:
        """Training time since this meter was made, pauses left out."""
        return self._active_seconds + (self._clock() - self._since if self._since is not None else 0.0)

    def pause(self) -> None:
        """Stops the clock. Pausing twice is pausing once."""
        self._active_seconds, self._since = self.active_seconds, None

    def resume(self) -> None:
        """Starts the clock again."""
        if self._since is None:
            self._since = self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """`with meter.paused():` around an evaluation or a save."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def row(self, samples: int, tokens: int | None = None) -> Row:
        """The perf/ values of the interval since the last row: per second, and as a share of the peak."""
        seconds = max(self.active_seconds - self._row_seconds, 1e-9)
        samples_per_second = (samples - self._samples) / seconds
        row: Row = {"perf/samples_per_second": samples_per_second}
        if tokens is not None:
            row["perf/tokens_per_second"] = (tokens - (self._tokens or 0)) / seconds
        if self._peak_flops:
            row["perf/share_of_peak"] = samples_per_second * self._flops_per_sample / self._peak_flops
        self._samples, self._tokens, self._row_seconds = samples, tokens, self._row_seconds + seconds
        return row


def measured_peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """FLOP/s of the best matrix product seen within `seconds`: the ceiling that shares of peak refer to.

    Square matrices grow until one product takes a hundredth of the time; then the best of the repetitions
    counts. Random entries, never zeros: hardware spends less power on zeros and clocks higher. Uses a
    generator of its own.
    """
    generator = torch.Generator(device=device).manual_seed(0)

    def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in "lr")
        _timed_product(left, right)  # the first product of a size chooses its kernel: not counted
        return left, right

    size, largest = 256, 2048 if device.type == "cpu" else 16384
    left, right = pair(size)
    best, deadline = 0.0, time.perf_counter() + seconds
    while True:
        taken = _timed_product(left, right)
        best = max(best, 2 * size**3 / taken)
        if time.perf_counter() + taken > deadline:
            return best
        if taken < seconds / 100 and size < largest:
            size *= 2
            left, right = pair(size)


def _timed_product(left: torch.Tensor, right: torch.Tensor) -> float:
    """Seconds of one product."""
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    start = time.perf_counter()
    torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return max(time.perf_counter() - start, 1e-9)


def flops_per_sample(module: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """FLOPs of forward and backward per sample, counted on one forward pass of `module(batch)`.

    Backward costs twice the forward (a product with the weights, one with the activations), hence times 3.
    Counts matrix products, convolutions and attention (all T x T pairs, also under a causal mask, as is the
    custom); a multiplication with its addition counts 2. Nothing about `module` changes: evaluation mode
    during the count, so that no generator is drawn from and no running statistic moves; the modes are put
    back.
    """
    modes = {part: part.training for part in module.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    module.eval()
    try:
        with torch.no_grad(), counter:
            module(batch)
    finally:
        for part, training in modes.items():
            part.training = training
    samples = len(next(iter(batch.values())))
    return 3.0 * counter.get_total_flops() / samples


def _formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of what FlopCounterMode counts as 0 (attention on a CPU) or refuses (grouped queries)."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        batch, heads, queries, width = query
        keys, value_width = key[-2], value[-1]
        return 2 * batch * heads * queries * keys * (width + value_width)  # type: ignore[no-any-return]

    kernels = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    names = [f"_scaled_dot_product_{kernel}" for kernel in kernels]
    return {getattr(torch.ops.aten, name): attention for name in names if hasattr(torch.ops.aten, name)}


def memory_bytes(device: torch.device) -> int:
    """Most memory used so far: of the allocator on a GPU, of the process (resident) elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: on Linux that starts at what the parent process had used
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
