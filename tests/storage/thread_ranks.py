"""Ranks that are threads of one process, for what they do together on a file system."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor


class ThreadRank:
    """One of `size` ranks, which share a barrier and a table."""

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self._barrier, self._table = rank, size, barrier, table

    def exchange(self, document):
        """Every rank's document."""
        self._table[self.rank] = json.dumps(document)
        self._barrier.wait(20)
        everyone = [json.loads(self._table[rank]) for rank in range(self.size)]
        self._barrier.wait(20)
        return everyone


def as_ranks(size, act):
    """What `act(ranks)` returns, or the exception that it raises, on each of `size` ranks."""
    barrier, table = threading.Barrier(size), {}

    def on(rank):
        try:
            return act(ThreadRank(rank, size, barrier, table))
        except Exception as error:
            if isinstance(error, threading.BrokenBarrierError):
                raise
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(on, range(size)))
