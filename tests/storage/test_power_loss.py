"""Power cuts: the file operations of some saves are logged, and the disk is rebuilt as it may be after each of them.

What was not synced may be there or not: the entries of a folder by fsync of the folder, the content of a file by fsync
of the file; else it is lost, cut short or zeros. After any cut what `save` had returned from must be there, intact.
"""

import itertools
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bigtrain.errors import CheckpointError
from bigtrain.storage.checkpoint import CheckpointStore

from .test_checkpoint import Pieces
from .test_sharded_checkpoint import files_of_rank
from .test_sharded_checkpoint import save as save_together

MODEL = "model.safetensors"

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks up descriptors in /proc")
CONTENTS = {
    "lost": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "whole": lambda content: content,
}


@dataclass
class File:
    content: bytes = b""  # that it has in the end
    synced: bool = False


@dataclass
class Folder:
    entries: dict = field(default_factory=dict)
    synced: dict = field(default_factory=dict)  # the entries that a power cut leaves


class Disk:
    """Logs file operations below `root`; `replay` goes through them again, on `Folder` and `File`."""

    def __init__(self, root, ignored):
        self.root, self.log, self.ignored = root, [], ignored
        self.lock = threading.RLock()  # as ranks that are threads write at the same time

    def record(self, save):
        """Calls `save`, and logs what it does."""
        patch = pytest.MonkeyPatch()
        patch.setattr(os, "open", self._then(os.open, self._opened))
        patch.setattr(os, "fsync", self._then(os.fsync, self._synced))
        patch.setattr(os, "mkdir", self._then(os.mkdir, lambda _, path, *__, **___: self._add("folder", path)))
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, self._then(getattr(os, name), self._removed))
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._then(getattr(os, name), lambda _, *paths: self._add("renamed", *paths)))
        try:
            save()
        finally:
            patch.undo()

    def _then(self, real, note):
        def call(*given, **options):
            with self.lock:
                result = real(*given, **options)
                note(result, *given, **options)
                return result

        return call

    def _add(self, operation, *paths):
        self.log.append((operation, *(Path(path).relative_to(self.root).parts for path in paths)))

    def _opened(self, descriptor, path, flags, *_, **__):
        if flags & os.O_CREAT:
            self._add("file", path)

    def _removed(self, _, path, dir_fd=None):
        self._add("removed", path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path)

    def _synced(self, _, descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self.root):
            if not self.ignored(path):
                self._add("synced", path)
            if path.is_file():
                self.log.append(("content", path.relative_to(self.root).parts, path.read_bytes()))

    def replay(self, known=()):
        """After every operation: (steps saved, the root, files in the order of their creation)."""
        root, files, saved = Folder(), [], []

        def folder_of(path):
            node = root
            for part in path[:-1]:
                node = node.entries[part]
            return node

        for operation, *given in self.log:
            if operation == "saved":
                saved.append(given[0])
            else:
                path = given[0]
                parent = folder_of(path) if path else root
                if operation == "folder":
                    parent.entries[path[-1]] = Folder()
                elif operation == "file":
                    parent.entries[path[-1]] = File(known[len(files)].content if known else b"")
                    files.append(parent.entries[path[-1]])
                elif operation == "removed":
                    del parent.entries[path[-1]]
                elif operation == "renamed":
                    folder_of(given[1]).entries[given[1][-1]] = parent.entries.pop(path[-1])
                elif operation == "content":
                    parent.entries[path[-1]].content = given[1]
                else:
                    node = parent.entries[path[-1]] if path else root
                    node.synced = dict(node.entries) if isinstance(node, Folder) else True
            yield list(saved), root, files


def rebuild(folder, path, root_synced, inner_synced, content):
    path.mkdir()
    for name, node in (folder.synced if root_synced else folder.entries).items():
        if isinstance(node, Folder):
            rebuild(node, path / name, inner_synced, inner_synced, content)
        else:
            (path / name).write_bytes(node.content if node.synced else CONTENTS[content](node.content))


def save_alone(store, step):
    store.save(step, {"model": Pieces([100, 1, 50]), "state.json": b"{}"}, {})


def save_by_two_ranks(store, step):
    save_together(store, 2, step, lambda rank, size, step: {MODEL: files_of_rank(rank, size, step)[MODEL]})


def checkpoints_lost(tmp_path, ignored=lambda path: False, save_step=save_alone, steps=3):
    """Cuts after which a saved checkpoint is gone, and how many were tried. `ignored`: of what no fsync counts."""
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=2)
    store.prepare()
    disk = Disk(store.root, ignored)

    def save():
        for step in (1, 2, 3)[:steps]:
            save_step(store, step)
            disk.log.append(("saved", step))
            if step == 1:
                store.mark_best(1)

    disk.record(save)
    *_, (_, _, files) = disk.replay()
    lost, tried = [], 0
    for number, (saved, root, _) in enumerate(disk.replay(files)):
        for choice in itertools.product((True, False), (True, False), CONTENTS):
            tried += 1
            where = tmp_path / f"cut-{number}-{tried}"
            rebuild(root, where, *choice)
            try:
                newest = CheckpointStore(where).newest()
            except CheckpointError:
                newest = None
            if saved and (newest is None or newest.step < saved[-1]):
                lost.append((number, saved[-1], choice))
    return lost, tried


@pytest.mark.parametrize(("save_step", "steps"), [(save_alone, 3), (save_by_two_ranks, 2)])
def test_no_saved_checkpoint_is_lost(tmp_path, save_step, steps):
    lost, tried = checkpoints_lost(tmp_path, save_step=save_step, steps=steps)
    assert tried > 200 * steps
    assert not lost


@pytest.mark.parametrize("ignored", [Path.is_file, Path.is_dir])
def test_without_syncing_files_or_folders_checkpoints_would_be_lost(tmp_path, ignored):
    lost, _ = checkpoints_lost(tmp_path, ignored)
    assert lost


def test_without_syncing_their_shards_checkpoints_of_ranks_would_be_lost(tmp_path):
    lost, _ = checkpoints_lost(tmp_path, lambda path: "00002-of" in path.name, save_by_two_ranks, steps=1)
    assert lost
