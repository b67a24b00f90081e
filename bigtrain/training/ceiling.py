"""The machine's measured peak: FLOP/s of the fastest matrix product, which `perf/share_of_peak` refers to.

The largest value seen is kept, per processor, number format and threads, in `machine.json` of the user's cache folder.
It is measured again, which takes 0.15 s, where it is a day old, where torch is another version, and at the next start
where the processor had other work meanwhile: such a value is too low, and steps would then run at 125 % of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bigtrain.data.cache import cache_root
from bigtrain.errors import MachineError
from bigtrain.storage import durable
from bigtrain.tracking.throughput import Peak, measured_peak_flops

_FILE = "machine.json"
_FILE_BYTES = 1 << 16
_KEPT_SECONDS = 24 * 3600.0


@lru_cache
def ceiling_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s; asked once per process, so that all its trainings have the same peak. See the module."""

    def measure() -> Peak:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measured_peak_flops(device, dtype)

    root = cache_root(None)
    if root is None:
        return measure().flops
    return largest_seen(root / _FILE, _key(device, dtype, threads), measure)


def known_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s as `ceiling_flops` has kept them, else as measured now; nothing is written."""
    root = cache_root(None)
    kept = {} if root is None else _read(root / _FILE)
    return _flops(kept.get(_key(device, dtype, threads))) or measured_peak_flops(device, dtype).flops


def _key(device: torch.device, dtype: torch.dtype, threads: int) -> str:
    return f"{_processor(device)}, {threads} threads, {dtype}"


def largest_seen(file: Path, key: str, measure: Callable[[], Peak]) -> float:
    """FLOP/s under `key` in the file, where that is still good; else the larger of it and of what `measure` returns.

    A file that can't be read counts as empty; one that can't be written is left alone.
    """
    kept = _read(file)
    flops = _flops(kept.get(key))
    if flops and _is_good(kept[key], time.time()):
        return flops
    measured = measure()
    flops = max(flops, measured.flops)
    entry = {"flops": flops, "time": time.time(), "torch": torch.__version__, "undisturbed": measured.undisturbed}
    with contextlib.suppress(OSError, MachineError):
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_json(file, _read(file) | {key: entry})
    return flops


def _is_good(entry: Any, now: float) -> bool:
    """Whether nothing is to be gained by measuring again; an entry that is only a number is of an earlier version."""
    if not isinstance(entry, dict) or entry.get("torch") != torch.__version__ or entry.get("undisturbed") is not True:
        return False
    measured = entry.get("time")
    return isinstance(measured, float) and 0 <= now - measured < _KEPT_SECONDS


def _flops(entry: Any) -> float:
    """The value of an entry; 0 where there is none that can be used."""
    flops = entry.get("flops") if isinstance(entry, dict) else entry
    return flops if isinstance(flops, float) and 0 < flops < math.inf else 0.0


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _FILE_BYTES:
            return {}
        kept = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: entry for key, entry in kept.items() if _flops(entry)} if isinstance(kept, dict) else {}


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
