"""Writing checkpoints while training goes on.

At a save the tensors are copied to host memory, once, and the loop goes on; a thread writes the copy, commits it, moves
the hints and prunes, one thing after the other (`CheckpointStore`). The numbers of `state.json` are those of the moment
of the save. A kill meanwhile is a kill inside a save: the checkpoint before it stands.

Where tensors are split over ranks, every rank does this with its own part, and what they tell each other meanwhile goes
over a process group of its own, as the training's collectives run beside it. One rank's failure is every rank's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor

from bigtrain.distributed.world import World
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.storage.durable import Content
from bigtrain.storage.together import ALONE, Alone
from bigtrain.tracking.memory import available_memory_bytes
from bigtrain.tracking.status_line import status_line
from bigtrain.training.snapshot import Snapshot
from bigtrain.training.tensor_file import TensorFile

_SPARE = 2  # of the copy's size must be available, or there is no copy


class Saver:
    """Saves snapshots of a run; in the background within its `with` block, whose end waits for the last.

    At most one save is under way: the next waits for it. Without memory for a copy (less than `_SPARE` times its size
    is available, or allocating it fails) the live tensors are written before `save` returns, as they are outside the
    block.
    """

    def __init__(self, store: CheckpointStore, snapshot: Snapshot):
        self._store = store
        self._snapshot = snapshot
        self._copies: dict[str, Tensor] = {}  # file name → bytes of its tensors; kept from save to save
        self._writer: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []  # of the save under way, in order

    def __enter__(self) -> Saver:
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        return self

    def __exit__(self, *_: object) -> None:
        writer, self._writer = self._writer, None
        try:
            self.wait()
        finally:
            assert writer is not None
            writer.shutdown()
            self._copies.clear()

    def save(self, step: int) -> None:
        """Saves the snapshot as it is now; every rank calls it. Raises MachineError where this or the earlier save
        fails before it returns; otherwise `raise_failure` and `wait` do.
        """
        self.wait()
        if not self._snapshot.world.is_main and not self._snapshot.is_sharded:
            return
        writers = self._writers
        files, facts = self._snapshot.files(), self._snapshot.manifest_facts()
        copied = None if self._writer is None else self._copied(files)
        if copied is None:
            with status_line("Writing a checkpoint", ""):
                self._store.save(step, files, facts, writers)
            return
        copy_is_there = self._when_copied()

        def write() -> None:
            copy_is_there()
            self._store.save(step, copied, facts, writers)

        self._begin(write)

    @cached_property
    def _writers(self) -> World | Alone:
        """The ranks that write."""
        return self._snapshot.world.apart() if self._snapshot.is_sharded else ALONE

    def mark_best(self, step: int) -> None:
        """Points `best` at the checkpoint of a step, where there is one, once the save under way is on disk."""

        def mark() -> None:
            if self._store.path_of(step).is_dir():
                self._store.mark_best(step)

        self._begin(mark) if self._jobs else mark()

    def wait(self) -> None:
        """Returns when all that was asked for is on disk. Raises what the writing failed with."""
        jobs, self._jobs = self._jobs, []
        under_way = not all(job.done() for job in jobs)
        with status_line("Writing a checkpoint", "") if under_way else nullcontext():
            for job in jobs:
                job.result()

    def raise_failure(self) -> None:
        """Raises what the writing has failed with, if it has; does not wait."""
        if all(job.done() for job in self._jobs):
            self.wait()

    def _begin(self, job: Callable[[], None]) -> None:
        """Runs `job` in the thread, after those before it, unless one of them has failed."""
        assert self._writer is not None
        earlier = list(self._jobs)

        def run() -> None:
            if not any(done.exception() for done in earlier):
                job()

        self._jobs.append(self._writer.submit(run))

    def _copied(self, files: dict[str, bytes | TensorFile]) -> dict[str, Content] | None:
        """The files of a copy of the tensors; None where memory lacks it, on any of the ranks that write."""
        sizes = {name: file.data_bytes for name, file in files.items() if isinstance(file, TensorFile)}
        if {name: len(copy) for name, copy in self._copies.items()} != sizes:
            self._copies.clear()
        missing = 0 if self._copies else sum(sizes.values())
        # Ranks of one machine share its memory.
        needs = self._writers.exchange([platform.node(), missing])
        needed = sum(size for machine, size in needs if machine == platform.node())
        enough = not missing or (available_memory_bytes() >= _SPARE * needed and self._allocated(sizes))
        if not all(self._writers.exchange(enough)):
            self._copies.clear()
            return None
        return {
            name: file.copied(self._copies[name]) if isinstance(file, TensorFile) else file
            for name, file in files.items()
        }

    def _allocated(self, sizes: dict[str, int]) -> bool:
        """Whether there are buffers of these sizes now."""
        pinned = self._device.type == "cuda"
        try:
            self._copies |= {
                name: torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for name, size in sizes.items()
            }
        except RuntimeError:  # what torch raises where memory is short
            return False
        return True

    @property
    def _device(self) -> torch.device:
        return self._snapshot.world.device

    def _when_copied(self) -> Callable[[], None]:
        """Waits for the copy. The steps that come after it change nothing in it: the GPU works in order."""
        if self._device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event(blocking=True)  # without it, waiting takes a core
        event.record()
        return event.synchronize
