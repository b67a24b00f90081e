"""Memory: used so far, in all, and available; of the GPU that is trained on, or of the host."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode


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


def allocated_peak(profiler: Any) -> int:
    """The largest sum of host memory that a finished `torch.profiler.profile(profile_memory=True)` has recorded, above
    what was allocated when it began: by the allocator's own account.
    """
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.device_type() == DeviceType.CPU:
            total += event.nbytes()
            peak = max(peak, total)
    return peak


def memory_total_bytes(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory there is: of the GPU, else of the machine or of the container that this process runs in."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of the two versions of control groups
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            total = min(total, int((cgroup / name).read_text()))
    return min(total, _limit_of_process() or total)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the GPU, else of the host."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()


def available_memory_bytes() -> int:
    """Host memory that can be had without swapping, within the limits of this process and of its cgroup; 0 where
    unknown.
    """
    try:
        available = _fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
        if limit := _limit_of_process():
            available = min(available, max(0, limit - _fields(Path("/proc/self/status"))["VmSize:"] * 1024))
        for group in _cgroups():
            if (file := group / "memory.max").exists() and (text := file.read_text().strip()) != "max":
                cached = _fields(group / "memory.stat").get("inactive_file", 0)
                used = int((group / "memory.current").read_text())
                available = min(available, int(text) - used + cached)
        return available
    except (OSError, ValueError, KeyError):  # not Linux
        return 0


class PeakMemory(TorchDispatchMode):
    """`peak`: the most bytes that tensors made within it took at once, those of `module` and its buffers left out.

    What kernels allocate for themselves is not seen. Gradients are.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.peak = self._held = 0
        tensors = (*module.parameters(), *module.buffers())
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the decorator that tells the compiler to skip this mode imports the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held += storage.nbytes()
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


def out_of_memory_kills() -> int:
    """How often the kernel has ended a process of this one's cgroup because memory ran out; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError):
        found = (_fields(group / "memory.events") for group in _cgroups() if (group / "memory.events").exists())
        return next(found, {}).get("oom_kill", 0)
    return 0


def _cgroups() -> Iterator[Path]:
    """This process's cgroup and those that it lies in (version 2), whose limits hold for it too; without a limit a
    folder has no file of it.
    """
    group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip()
    while group != group.parent:
        yield group
        group = group.parent


def _limit_of_process() -> int:
    """Bytes of address space that this process may have (`ulimit -v`); 0: no limit."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if soft == resource.RLIM_INFINITY else soft


def _fields(path: Path) -> dict[str, int]:
    """The number of each line that begins with a name and one."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
