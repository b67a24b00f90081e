"""A checkpoint is complete and verified, or it does not exist."""

import json
import os
import stat
import threading
import weakref
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.errors import CheckpointError, MachineError
from bigtrain.storage import checkpoint, durable
from bigtrain.storage.checkpoint import CheckpointStore, verify
from bigtrain.storage.finding import find_checkpoint

FILES = {"model.safetensors": bytes(range(256)) * 3, "state.json": b'{"step": 1}'}


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    store.prepare()
    return store


def test_what_is_saved_is_verified_and_read_back(store):
    path = store.save(12, FILES, {"torch": "x"})
    found = verify(path)
    assert (found.step, found.manifest["torch"], path.name) == (12, "x", "step-00000012")
    assert {name: (path / name).read_bytes() for name in FILES} == FILES
    assert found.read_json("state.json") == {"step": 1}


class Pieces:
    """Content made while it is written; remembers how many of its pieces were alive at once."""

    def __init__(self, sizes, failing=None):
        self.sizes, self.failing, self.made, self.most = sizes, failing, [], 0

    def __len__(self):
        return sum(self.sizes)

    def pieces(self):
        for number, size in enumerate(self.sizes):
            if number == self.failing:
                raise OSError(28, "No space left on device")
            piece = np.full(size, number, dtype=np.uint8)
            self.made.append(weakref.ref(piece))
            self.most = max(self.most, sum(made() is not None for made in self.made))
            yield memoryview(piece)


@pytest.mark.parametrize("sizes", [[], [1], [5, 0, 7], [100] * 20, [durable.PIECE_BYTES] * 8])
def test_content_in_pieces_is_written_and_hashed_like_bytes(store, sizes):
    expected = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    content = Pieces(sizes)
    path = store.save(3, {"whole": expected, "pieces": content}, {})
    listed = verify(path).manifest["files"]
    assert (path / "pieces").read_bytes() == expected
    assert listed["pieces"] == listed["whole"] == {"bytes": len(expected), "sha256": sha256(expected).hexdigest()}
    assert content.most <= 5, "the file is never in memory as a whole"


@pytest.mark.parametrize("size", [100, durable.PIECE_BYTES])
@pytest.mark.parametrize("failing", range(4))
def test_a_disk_that_fails_between_pieces_leaves_nothing_over(store, size, failing):
    store.save(1, FILES, {})
    with pytest.raises(MachineError, match="no space"):
        store.save(2, {"pieces": Pieces([size] * 4, failing)}, {})
    assert store.newest().step == 1
    assert not list(store.root.glob(".tmp-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sha256")]


def test_files_are_private(store):
    path = store.save(1, FILES, {})
    modes = [stat.S_IMODE(entry.stat().st_mode) for entry in [path, *path.iterdir()]]
    assert modes[0] == 0o700
    assert set(modes[1:]) == {0o600}


def test_a_step_is_never_overwritten(store):
    store.save(1, FILES, {})
    store.save(1, {"state.json": b"{}"}, {})
    assert (store.path_of(1) / "state.json").read_bytes() == FILES["state.json"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_truncation_at_every_byte_is_detected(store, name):
    path = store.save(1, FILES, {})
    whole = (path / name).read_bytes()
    for length in range(len(whole)):
        (path / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            verify(path)
    (path / name).write_bytes(whole)
    verify(path)


def test_every_bit_flip_is_detected_and_named(store):
    path = store.save(1, FILES, {})
    for name in FILES:
        whole = bytearray((path / name).read_bytes())
        for bit in range(0, len(whole) * 8, 7):
            flipped = whole.copy()
            flipped[bit // 8] ^= 1 << bit % 8
            (path / name).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=name):
                verify(path)
        (path / name).write_bytes(whole)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "stranger.pt").write_bytes(b"x"),
        lambda path: (path / "state.json").write_bytes(FILES["state.json"] + b" "),
        lambda path: path.rename(path.with_name("step-00000009")),
    ],
)
def test_missing_added_and_swapped_files_are_detected_and_survived(store, harm, capsys):
    store.save(1, FILES, {})
    harm(store.save(2, FILES, {}))
    assert store.newest().step == 1
    assert not list(store.root.glob(".bad-*"))  # a reader leaves the run as it is
    assert store.newest(set_aside=True).step == 1
    assert "set aside" in capsys.readouterr().err
    assert [path.name for path in store.root.glob(".bad-*")]


def test_no_intact_checkpoint_is_an_error_and_never_a_fresh_start(store):
    (store.save(1, FILES, {}) / "state.json").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none is intact"):
            store.newest()


def test_the_newest_is_found_by_step_and_not_by_time(store):
    for step in (9, 100_000_000, 10):
        store.keep_last = 9
        store.save(step, FILES, {})
    os.utime(store.path_of(9))
    assert store.newest().step == 100_000_000


def test_a_link_in_the_place_of_a_step_is_refused(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    store.path_of(5).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="in the way"):
        store.save(5, FILES, {})
    assert store.steps() == []


def test_a_file_managers_leftovers_do_no_harm(store):
    path = store.save(1, FILES, {})
    (path / ".DS_Store").write_bytes(b"x")
    assert store.newest().step == 1


def test_pruning_keeps_the_last_and_the_best(store):
    store.save(1, FILES, {})
    store.mark_best(1)
    for step in (2, 3, 4):
        store.save(step, FILES, {})
    assert store.steps() == [4, 3, 1]


@pytest.mark.parametrize("failing_call", range(1, 12))
def test_a_failing_disk_leaves_the_earlier_checkpoint_and_no_leftovers(store, monkeypatch, failing_call):
    store.save(1, FILES, {})
    calls = {"fsync": 0}
    real = os.fsync

    def fsync(descriptor):
        calls["fsync"] += 1
        if calls["fsync"] == failing_call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    try:
        store.save(2, FILES, {})
    except MachineError as error:
        assert "no space" in str(error)
    monkeypatch.setattr(os, "fsync", real)
    assert not list(store.root.glob(".tmp-*-*[0-9]/"))
    assert store.newest().step in (1, 2)
    assert verify(store.path_of(1))


def test_too_little_space_is_noticed_before_writing(store, monkeypatch):
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda path: os.statvfs_result and _Usage())
    with pytest.raises(MachineError, match="needed"):
        store.save(1, FILES, {})
    assert list(store.root.iterdir()) == []


class _Usage:
    free = 10


def test_links_planted_in_the_way_are_refused(store, tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    (store.root / f".tmp-latest-{os.getpid()}").symlink_to(target)
    store.save(1, FILES, {})
    assert target.read_text() == "mine"
    (store.path_of(1) / "state.json").unlink()
    (store.path_of(1) / "state.json").symlink_to(target)
    with pytest.raises(CheckpointError, match="plain file"):
        verify(store.path_of(1))


@given(junk=st.binary(max_size=300))
def test_any_manifest_is_a_sentence(junk, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    (path / "manifest.json").write_bytes(junk)
    with pytest.raises(CheckpointError):
        verify(path)


@given(
    document=st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_manifest_is_a_sentence(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    manifest = {"format_version": checkpoint.FORMAT_VERSION, "step": 1, "files": document}
    (path / "manifest.json").write_text(json.dumps(manifest))
    if document != {}:
        with pytest.raises(CheckpointError):
            verify(path)


def test_every_way_to_name_a_checkpoint(store):
    run = store.root.parent
    with pytest.raises(CheckpointError, match="not saved a checkpoint"):
        find_checkpoint(str(run))
    store.keep_last = 5
    for step in (1, 2, 3):
        store.save(step, FILES, {})
    assert find_checkpoint(str(run)).step == 3
    store.mark_best(2)
    assert find_checkpoint(str(run)).step == 2
    assert find_checkpoint(str(store.root / "best")).step == 2
    assert find_checkpoint(str(store.root / "latest")).step == 3
    assert find_checkpoint(str(store.path_of(1))).step == 1
    assert find_checkpoint("latest", newest_run=run).step == 3
    assert find_checkpoint("best", newest_run=run).step == 2
    for wrong in ("nowhere", str(store.path_of(7)), "latest"):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            find_checkpoint(wrong)


def test_a_checkpoint_named_explicitly_never_falls_back(store):
    store.save(1, FILES, {})
    (store.save(2, FILES, {}) / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="not intact"):
        find_checkpoint(str(store.root / "latest"))
    assert store.path_of(2).is_dir()


def test_a_number_that_is_not_finite_is_written_as_strict_json(tmp_path):
    durable.replace_json(
        tmp_path / "status.json", {"metrics": {"val/perplexity": float("inf"), "x": [float("nan"), 1]}}
    )
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "metrics": {"val/perplexity": "Infinity", "x": ["NaN", 1]}
    }
