"""Number formats: choosing one, autocast, and loss scaling.

Weights, gradients and optimizer state stay fp32; the forward and backward pass run under autocast. `auto` is a fixed
rule of hardware and shapes, never a timing, so that two fresh runs are the same run; `probe` times and records. fp8 is
bf16 with wide linear layers in fp8 while they train (`nn/fp8.py`): what is evaluated, generated and exported is bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from bigtrain.config.run import Precision
from bigtrain.errors import ConfigError
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.fp8 import ALIGNMENT, WIDE, linear_layers, train_in_fp8

# Below this much work a forward pass on a CPU is dispatch, not arithmetic, and casting weights costs what bf16 saves.
# Step time fp32 / bf16 on 2 cores with AMX, 32 x 64 tokens, median of 5 interleaved blocks: width 32, 2 layers
# (0.14 GFLOP) 0.94; 64, 4 (0.96) 1.13; 128, 2 (1.8) 1.57; 128, 4 (3.5) 1.46.
CPU_BF16_FORWARD_FLOPS = 1e9

FP8_CAPABILITY = (8, 9)  # Ada, Hopper, Blackwell

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


@dataclass(frozen=True)
class ResolvedPrecision:
    """A number format by name, and why it was chosen."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast. That of fp8 is bf16, and so is the ceiling that its steps are measured by, as is usual."""
        return _DTYPES[self.name]

    @property
    def low_dtype(self) -> torch.dtype | None:
        """`dtype` where that is not fp32: what weights can be gathered in."""
        return None if self.name == "fp32" else self.dtype

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.name != "fp32")

    def one_cast_per_weight(self, device: torch.device, passes: int) -> AbstractContextManager[None]:
        """Around the passes of a step: within it autocast keeps its low-precision copy of each weight, which else is
        forgotten after each pass. What runs here and not under `autocast` keeps its dtype.

        Of a single pass the copies go as they are used: kept, they would take memory in its backward pass. (So `passes`
        is 1 too where a rank has a part of the weights only, and no room for copies of all.)
        """
        keeps = self.name != "fp32" and passes > 1
        return torch.autocast(device.type, enabled=False) if keeps else nullcontext()

    def scaler(self, device: torch.device) -> GradScaler:
        """Loss scaling, in effect for fp16 only."""
        return GradScaler(device.type, enabled=self.name == "fp16")


def resolve_precision(
    setting: Precision,
    device: torch.device,
    forward_flops: float,
    time_step: Callable[[ResolvedPrecision], None],
) -> ResolvedPrecision:
    """The format for this run. `forward_flops`: of one micro-batch; `time_step`, for `probe`, runs one."""
    if setting is Precision.probe:
        return _probe(device, time_step)
    if setting is not Precision.auto:
        return ResolvedPrecision(setting.value, "as set")
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major >= 8:
            return ResolvedPrecision("bf16", "auto: this GPU has bf16")
        if major == 7:
            return ResolvedPrecision("fp16", "auto: this GPU has fp16 but no bf16")
        return ResolvedPrecision("fp32", "auto: this GPU has no fast 16-bit arithmetic")
    if not _cpu_has_bf16():
        return ResolvedPrecision("fp32", "auto: this CPU has no bf16 arithmetic")
    if forward_flops < CPU_BF16_FORWARD_FLOPS:
        return ResolvedPrecision("fp32", "auto: too little arithmetic per step for bf16 to pay on a CPU")
    return ResolvedPrecision("bf16", "auto: this CPU has bf16 arithmetic")


def require_arithmetic(setting: Precision, device: torch.device) -> None:
    """Raises ConfigError for fp8 on a device without products in fp8."""
    if setting is not Precision.fp8 or has_fp8(device):
        return
    what = "the CPU"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        what = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    raise ConfigError.of(
        "PRECISION-DEVICE",
        f"trainer.precision is fp8, and {what} has no arithmetic for it",
        cause="fp8 needs an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell)",
        fix="trainer.precision=bf16, or auto; a run that began in fp8 goes on on such a GPU only",
    )


def has_fp8(device: torch.device) -> bool:
    """Whether the device multiplies matrices in fp8 faster than in bf16."""
    is_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def enter_fp8(backbone: Backbone) -> str:
    """Makes the wide linear layers of the backbone's blocks train in fp8; returns which, as a reason.

    Raises ConfigError where there is none.
    """
    blocks = backbone.ordered_blocks()
    layers = [layer for block in blocks for layer in linear_layers(block)]
    if wide := train_in_fp8(blocks):
        return f"{wide} of {len(layers)} linear layers in the blocks; bf16 elsewhere"
    widest = max(layers, key=lambda layer: (min(shape := layer.weight.shape), max(shape)), default=None)
    cause = "the blocks have no linear layers"
    if widest is not None:
        cause = f"the widest maps {widest.in_features} features to {widest.out_features}"
    raise ConfigError.of(
        "PRECISION-WIDTH",
        f"trainer.precision is fp8, and no block of this model has a linear layer wide enough for it to pay: {WIDE} or "
        f"more features on both sides, multiples of {ALIGNMENT}",
        cause=cause,
        fix="trainer.precision=bf16, or a wider model",
    )


def allow_tf32() -> None:
    """fp32 products on a GPU's tensor cores, with ten bits of mantissa, at 8 times the speed."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def _cpu_has_bf16() -> bool:
    mkldnn = torch.backends.mkldnn
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def emulated_on_cpu(name: str) -> bool:
    """Whether this CPU converts the format to another for arithmetic: products in fp16 then take 25 to 50 times as long
    as in fp32 (256 x 32 x 128 to 2048 x 256 x 1024).
    """
    if name == "fp16":
        return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return name == "bf16" and not _cpu_has_bf16()


def _probe(device: torch.device, time_step: Callable[[ResolvedPrecision], None]) -> ResolvedPrecision:
    candidates = ["fp32"] if device.type == "cpu" and not _cpu_has_bf16() else ["fp32", "bf16"]
    times = {}
    for name in candidates:
        precision = ResolvedPrecision(name, "")
        time_step(precision)  # kernels and caches warm up
        repeats = []
        for _ in range(5):
            start = time.perf_counter()
            time_step(precision)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            repeats.append(time.perf_counter() - start)
        times[name] = sorted(repeats)[2]
    best = min(times, key=times.__getitem__)
    shown = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items())
    return ResolvedPrecision(best, f"probe: a forward and backward pass takes {shown}")


class Overflow(NamedTuple):
    """Of gradients under fp16: scalars on the device."""

    found_inf: Tensor  # above 0 where a gradient is not finite
    loss_scale: Tensor  # which the loss was multiplied by


def unscale(scaler: GradScaler, optimizer: Optimizer) -> Overflow | None:
    """Divides the gradients by the loss scale; None where there is no scaling."""
    if not scaler.is_enabled():
        return None
    scaler.unscale_(optimizer)
    found = scaler._found_inf_per_device(optimizer)
    assert scaler._scale is not None  # made by the first `scale`
    return Overflow(torch.stack(list(found.values())).sum(), scaler._scale)
