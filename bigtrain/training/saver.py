"""Writing checkpoints while training goes on.

At a save the tensors are copied to host memory, once, and the loop goes on; a thread writes the copy, commits it, moves
the hints and prunes, one thing after the other (`CheckpointStore`). The numbers of `state.json` are those of the moment
of the save. A kill meanwhile is a kill inside a save: the checkpoint before it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.storage.durable import Content
from bigtrain.tracking.memory import available_memory_bytes
from bigtrain.tracking.status_line import status_line
from bigtrain.training.snapshot import Snapshot
from bigtrain.training.tensor_file import TensorFile

_SPARE = 2  # of the copy's size must be available, or there is no copy


class Saver:
    """Saves snapshots of a run, on rank 0; in the background within its `with` block, whose end waits for the last.

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
        """Saves the snapshot as it is now. Raises MachineError where this or the earlier save fails before it returns;
        otherwise `raise_failure` and `wait` do.
        """
        self.wait()
        files, facts = self._snapshot.files(), self._snapshot.manifest_facts()
        copied = None if self._writer is None else self._copied(files)
        if copied is None:
            with status_line("Writing a checkpoint", ""):
                self._store.save(step, files, facts)
            return
        copy_is_there = self._when_copied()

        def write() -> None:
            copy_is_there()
            self._store.save(step, copied, facts)

        self._begin(write)

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
        """The files of a copy of the tensors; None where memory lacks it."""
        sizes = {name: file.data_bytes for name, file in files.items() if isinstance(file, TensorFile)}
        if {name: len(copy) for name, copy in self._copies.items()} != sizes:
            self._copies.clear()
            if available_memory_bytes() < _SPARE * sum(sizes.values()):
                return None
            try:
                pinned = self._device.type == "cuda"
                self._copies |= {
                    name: torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for name, size in sizes.items()
                }
            except RuntimeError:  # what torch raises where memory is short
                self._copies.clear()
                return None
        return {
            name: file.copied(self._copies[name]) if isinstance(file, TensorFile) else file
            for name, file in files.items()
        }

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
