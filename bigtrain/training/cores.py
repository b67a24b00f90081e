"""Training on cores that other processes use too: how much they take is measured, and threads then wait asleep.

A thread of OpenMP that waits for the others of its team spins, which is fastest where every thread has a core. Where a
core is shared, the spinning thread keeps it from the very thread that it waits for. PyTorch brings GNU's libgomp, whose
threads spin up to 300,000 times, but hardly at all while the process has more OpenMP threads than there are cores
(`GOMP_SPINCOUNT` in its manual). So while cores are taken there is a second team that does nothing. GPT 4/128 in bf16,
two threads on two cores, ms per step without and with it: idle 38 and 75; beside one busy loop 155 and 61; beside two
3,500 and 62. The bytes of a run do not depend on it: the number of threads that compute stays the same.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from bigtrain.tracking.contention import Contention
from bigtrain.tracking.tracker import Row

_SECONDS = 4.0  # between two readings
_PARALLEL = 1 << 17  # elements: enough for torch to use all its threads


class CoreWatch:
    """Within its `with` block a thread reads, every few seconds, what share of our cores other processes use."""

    def __init__(self, contention: Contention, computes: bool):
        """`computes`: the training computes on the CPU, in torch's threads."""
        self._contention = contention
        self._has_team = computes and torch.get_num_threads() > 1
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cores", daemon=True)
        self._share: float | None = None
        self._idle_team: _IdleTeam | None = None

    def __enter__(self) -> CoreWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()
        self._sleep_early(False)

    def row(self) -> Row:
        """The column of a logged row: the last share that was read, 0 to 1, unless an earlier row had it."""
        share, self._share = self._share, None
        return {} if share is None else {"system/other_cpu": share}

    def warning(self) -> str:
        """A sentence for the user, once, when others have taken our cores for a while; else ""."""
        return self._contention.warning()

    def _watch(self) -> None:
        while not self._end.wait(_SECONDS):
            share = self._contention.share()
            if share is not None:
                self._share = share
                self._sleep_early(self._contention.takes_cores)

    def _sleep_early(self, early: bool) -> None:
        if early and self._has_team and self._idle_team is None:
            self._idle_team = _IdleTeam()
        elif not early and self._idle_team is not None:
            self._idle_team.end()
            self._idle_team = None


class _IdleTeam:
    """A thread that has started a team of OpenMP threads, all asleep until `end`."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._start_and_sleep, name="idle team", daemon=True)
        self._thread.start()

    def _start_and_sleep(self) -> None:
        torch.zeros(_PARALLEL).add_(1)
        self._end.wait()  # libgomp ends a team with the thread that started it

    def end(self) -> None:
        """Ends the thread, and its team with it."""
        self._end.set()
        self._thread.join()
