"""What several processes, the ranks of one run, do together on a file system that all of them see.

They need only tell each other JSON documents: `distributed/world.py` has how.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from bigtrain.errors import BigtrainError, MachineError

_SECONDS_BETWEEN_ROUNDS = 0.5


class Ranks(Protocol):
    """This process as one of `size`."""

    @property
    def rank(self) -> int:
        """From 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def exchange(self, document: Any) -> list[Any]:
        """Every rank's JSON document, by rank. All ranks call it in the same order."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def exchange(self, document: Any) -> list[Any]:
        """The document."""
        return [document]


ALONE = Alone()


class LeftOff(Exception):  # noqa: N818
    """What an action raises that was asked to stop, because another rank has failed."""


def together(ranks: Ranks, act: Callable[[threading.Event], Any]) -> list[Any]:
    """Runs `act` on every rank, and returns what it returned on each, JSON documents, by rank.

    Meanwhile the ranks tell each other every half second that they are there: however long one takes, it does not count
    as lost, and one that is lost does not take the others longer than their timeout. Where `act` fails on a rank, the
    others' event is set, for them to leave off (`LeftOff`); when all have ended, every rank raises.
    """
    stop = threading.Event()
    if ranks.size == 1:
        return [act(stop)]
    with ThreadPoolExecutor(1, "together") as worker:
        future = worker.submit(act, stop)
        try:
            reports: list[Any] = [None]
            while None in reports:  # of one that is not done
                wait([future], _SECONDS_BETWEEN_ROUNDS)
                reports = ranks.exchange(_report(future))
                if any(report and "failed" in report for report in reports):
                    stop.set()
        finally:
            stop.set()  # where a rank was lost; else all is done
    failed = {rank: report["failed"] for rank, report in enumerate(reports) if "failed" in report}
    if failed:
        if ranks.rank in failed:
            future.result()
        rank, (code, message, cause, fix) = next(iter(failed.items()))
        raise MachineError.of(code, f"rank {rank}: {message}", cause=cause, fix=fix)
    return [report["result"] for report in reports]


def on_first(ranks: Ranks, act: Callable[[], Any]) -> Any:
    """Runs `act` on rank 0; returns what it returned there, a JSON document, or raises its error, on every rank."""
    return together(ranks, lambda _: act() if ranks.rank == 0 else None)[0]


def _report(future: Future[Any]) -> dict[str, Any] | None:
    """A JSON document of what has become of an action; None while it runs."""
    if not future.done():
        return None
    error = future.exception()
    if error is None:
        return {"result": future.result()}
    if isinstance(error, LeftOff):
        return {"left_off": True}
    if isinstance(error, BigtrainError):
        problem = error.problems[0]
        return {"failed": [problem.code, problem.message, problem.cause, problem.fix]}
    return {"failed": ["RANK-FAILED", f"{type(error).__name__}: {error}", "", ""]}
