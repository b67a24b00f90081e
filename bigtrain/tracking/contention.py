"""CPU time that other processes take from a training, by Linux's /proc; elsewhere nothing is known of it.

Counted in user time: work of the kernel (writing back, the network) is often the training's own. Low-priority processes
(`nice`) are left out, since they give way.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN_READINGS = 4.0  # the counters move in hundredths of a second
_READING_SHARE = 0.005  # of the time, at most: a machine with thousands of processes is read less often
_LASTING_SECONDS = 2 * _SECONDS_BETWEEN_READINGS  # a program that is started on the side takes a core for a moment
_LEAST_CORES = 0.5
_LEAST_SHARE = 0.02  # of many cores: the counters are off by up to 1 %
_LEAST_OVERLAP = 0.25  # cores


@dataclass(frozen=True)
class _Reading:
    """Seconds since some moment: of the clock, and of user time."""

    clock: float
    everyone: float  # on the cores that this process may use
    ours: float


class Contention:
    """How much of our cores other processes use: others than the ranks on this machine and what they have started."""

    def __init__(self, threads: int, ranks: int = 1, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")):
        """`threads`: that each of the `ranks` on this machine computes with. The folders: others in tests."""
        self._threads, self._ranks, self._proc = threads, ranks, proc
        self._root = os.getpid() if ranks == 1 else os.getppid()  # the launcher of the ranks
        self._cores: set[int] = os.sched_getaffinity(0) if sys.platform == "linux" else set()
        self._known = bool(self._cores) and not _has_quota(cgroup)
        self._last: _Reading | None = None
        self._next_reading = 0.0
        self._seconds = 0.0  # for which others have taken cores without a break
        self._used = 0.0  # cores that others use, as of the last reading
        self._told = False
        self.share()  # from now on

    def share(self) -> float | None:
        """Share of the cores, 0 to 1, that other processes have used since the last reading.

        None where nothing is known, and in the first seconds after a reading.
        """
        if not self._known or time.monotonic() < self._next_reading:
            return None
        try:
            reading = _read(self._proc, self._cores, self._root)
        except (OSError, ValueError, IndexError):  # a /proc of another form
            self._known = False
            return None
        cost = time.monotonic() - reading.clock
        self._next_reading = reading.clock + max(_SECONDS_BETWEEN_READINGS, cost / _READING_SHARE)
        last, self._last = self._last, reading
        if last is None:
            return None
        seconds = reading.clock - last.clock
        used = (reading.everyone - last.everyone - (reading.ours - last.ours)) / seconds
        self._used = min(max(used, 0.0), float(len(self._cores)))
        self._seconds = self._seconds + seconds if self.takes_cores else 0.0
        return self._used / len(self._cores)

    def warning(self) -> str:
        """A sentence for the user, once, when others have taken cores for a while; else ""."""
        if self._told or self._seconds < _LASTING_SECONDS:
            return ""
        self._told = True
        cores, used = len(self._cores), self._used
        return f"other processes use {used:.1f} of the {cores} cores: steps take longer"

    @property
    def takes_cores(self) -> bool:
        """Whether others use so many cores that they take them from our threads, and not only those that are free."""
        cores, used = len(self._cores), self._used
        notable = used >= max(_LEAST_CORES, _LEAST_SHARE * cores)
        return notable and used + self._threads * self._ranks - cores >= _LEAST_OVERLAP


def _read(proc: Path, cores: set[int], root: int) -> _Reading:
    tick = os.sysconf("SC_CLK_TCK")
    clock = time.monotonic()
    everyone = _user_ticks((proc / "stat").read_text(), cores, with_nice=os.nice(0) > 0)
    return _Reading(clock, everyone / tick, sum(_family_ticks(proc, root)) / tick)


def _user_ticks(stat: str, cores: set[int], with_nice: bool) -> int:
    """User time on these cores, from /proc/stat: `cpu0 USER NICE SYSTEM IDLE …`, see proc_stat(5)."""
    rows = [line.split() for line in stat.splitlines() if line.startswith("cpu") and not line.startswith("cpu ")]
    counted = [row for row in rows if int(row[0].removeprefix("cpu")) in cores]
    return sum(int(row[1]) + (int(row[2]) if with_nice else 0) for row in counted)


def _family_ticks(proc: Path, root: int) -> Iterator[int]:
    """User time of `root` and each process below it, with that of those that have ended."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        try:
            stat = (proc / entry.name / "stat").read_text()
        except OSError:  # it has ended
            continue
        fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold anything; see proc_pid_stat(5)
        parent, user, user_of_ended = int(fields[1]), int(fields[11]), int(fields[13])
        ticks[int(entry.name)] = user + user_of_ended
        children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    while found:
        process = found.pop()
        found += children.get(process, [])
        yield ticks.get(process, 0)


def _has_quota(cgroup: Path) -> bool:
    """Whether a container limits our time: the cores that /proc knows are then not ours alone."""
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        try:
            limit = (cgroup / name).read_text().split()[0]
        except (OSError, IndexError):
            continue
        return limit not in ("max", "-1")
    return False
