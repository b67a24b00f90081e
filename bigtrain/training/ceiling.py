"""The machine's measured peak: FLOP/s of the fastest matrix product, which `perf/share_of_peak` refers to.

A measurement on a busy machine is too low, and steps would then run at, say, 125 % of it. So the largest value is kept,
per processor, number format and threads, in `machine.json` of the user's cache folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import warnings
from functools import lru_cache
from pathlib import Path

import torch

from bigtrain.data.cache import cache_root
from bigtrain.errors import MachineError
from bigtrain.storage import durable
from bigtrain.tracking.throughput import measured_peak_flops

_FILE = "machine.json"
_FILE_BYTES = 1 << 16


@lru_cache
def ceiling_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s; measured once per process, so that all its trainings have the same peak. See the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = measured_peak_flops(device, dtype)
    root = cache_root(None)
    if root is None:
        return measured
    return largest_seen(root / _FILE, f"{_processor(device)}, {threads} threads, {dtype}", measured)


def largest_seen(file: Path, key: str, measured: float) -> float:
    """The larger of `measured` and the value under `key` in the file, which is updated.

    A file that can't be read counts as empty; one that can't be written is left alone.
    """
    kept = _read(file)
    if measured > kept.get(key, 0.0):
        with contextlib.suppress(OSError, MachineError):
            file.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_json(file, kept | {key: measured})
    return max(measured, kept.get(key, 0.0))


def _read(file: Path) -> dict[str, float]:
    try:
        if file.stat().st_size > _FILE_BYTES:
            return {}
        kept = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {key: value for key, value in kept.items() if isinstance(value, float) and 0 < value < math.inf}


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
