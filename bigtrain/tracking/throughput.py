"""What the machine can do and what a module costs: measured peak, FLOPs. Speed itself is the loop's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

_UNDISTURBED = 0.85  # share of its threads' time that the products get; beside a busy loop on two cores 0.67


class Peak(NamedTuple):
    """A measured peak, and whether this process had its threads' cores to itself meanwhile (of a GPU always True)."""

    flops: float  # FLOP/s
    undisturbed: bool


def measured_peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> Peak:
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
    best, total, cpu_total, deadline = 0.0, 0.0, 0.0, time.perf_counter() + seconds
    while True:
        cpu_seconds = time.process_time()
        taken = _timed_product(left, right)
        cpu_total, total = cpu_total + time.process_time() - cpu_seconds, total + taken
        best = max(best, 2 * size**3 / taken)
        if time.perf_counter() + taken > deadline:
            received = cpu_total / (total * torch.get_num_threads())
            return Peak(best, device.type != "cpu" or received >= _UNDISTURBED)
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


def flops_per_sample(
    module: nn.Module, batch: dict[str, torch.Tensor], shared: Iterable[nn.Module] = (), ranks: int = 1
) -> float:
    """FLOPs of forward and backward per sample, counted on one forward pass of `module(batch)`.

    Backward costs twice the forward (a product with the weights, one with the activations), hence times 3.
    Counts matrix products, convolutions and attention (all T x T pairs, also under a causal mask, as is the
    custom); a multiplication with its addition counts 2. What runs within the `shared` modules counts for each of so
    many `ranks` that compute them together. Nothing about `module` changes: evaluation mode
    during the count, so that no generator is drawn from and no running statistic moves; the modes are put
    back.
    """
    modes = {part: part.training for part in module.modules()}
    counter = _FlopCounter()
    handles = [handle for part in shared for handle in counter.weigh(part, ranks)]
    module.eval()
    try:
        with torch.no_grad(), counter:
            module(batch)
    finally:
        for part, training in modes.items():
            part.training = training
        for handle in handles:
            handle.remove()
    samples = len(next(iter(batch.values())))
    return 3.0 * counter.flops / samples


class _FlopCounter(TorchDispatchMode):
    """Adds up PyTorch's formulas over what runs inside. Its own FlopCounterMode imports the compiler: 0.6 s."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self._weight = 0, 1
        self._formulas = flop_registry | _attention_formulas() | _recurrence_formulas()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the decorator that tells the compiler to skip this mode imports the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self._formulas.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # an operation that is made of others: count those
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.flops += self._weight * formula(*args, **kwargs, out_val=result)
        return result

    def weigh(self, module: nn.Module, weight: int) -> list[RemovableHandle]:
        """From now on what runs within a module counts so many times."""

        def begin(*_: Any) -> None:
            self._weight = weight

        def end(*_: Any) -> None:
            self._weight = 1

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]


def _attention_formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of what PyTorch counts as 0 (attention on a CPU) or refuses (grouped queries)."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
        batch, heads, queries, width = query.shape
        keys, value_width = key.shape[-2], value.shape[-1]
        return 2 * batch * heads * queries * keys * (width + value_width)

    kernels = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    names = [f"_scaled_dot_product_{kernel}" for kernel in kernels]
    return {getattr(torch.ops.aten, name): attention for name in names if hasattr(torch.ops.aten, name)}


def _recurrence_formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of the fused recurrent kernels, which PyTorch counts as 0: a product of each weight with every position."""

    def one_layer(x: torch.Tensor, input_weight: torch.Tensor, hidden_weight: torch.Tensor, *_: Any, **__: Any) -> int:
        return 2 * x.shape[0] * x.shape[1] * (input_weight.numel() + hidden_weight.numel())

    def layers(x: torch.Tensor, weights: list[torch.Tensor], *_: Any, **__: Any) -> int:
        return 2 * x.shape[0] * x.shape[1] * sum(weight.numel() for weight in weights if weight.ndim == 2)

    aten = torch.ops.aten
    return {aten.mkldnn_rnn_layer: one_layer, aten._cudnn_rnn: layers, aten.miopen_rnn: layers}
