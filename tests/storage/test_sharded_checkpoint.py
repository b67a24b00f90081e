"""Checkpoints that several ranks write together, each its own files: threads stand in for the ranks."""

import errno
import json
import shutil
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.errors import CheckpointError, MachineError
from bigtrain.storage import checkpoint, durable
from bigtrain.storage.checkpoint import CheckpointStore, verify
from bigtrain.storage.shard_files import files_of, read_boxes, shard_names

from .thread_ranks import as_ranks

SHAPE = (4, 2)
NAMES = ["model.safetensors", "optimizer.safetensors"]


def shard(offsets, shape, tensor="weight", whole=SHAPE, fill=0):
    """A safetensors file of one box of a float tensor."""
    size = 4 * shape[0] * shape[1]
    boxes = {tensor: {"tensor": tensor, "shape": whole, "offsets": offsets}}
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"boxes": json.dumps(boxes)}, tensor: entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * size


def files_of_rank(rank, size, step=0):
    """Rows of the two files' tensor; rank 0 has a document, too."""
    rows = SHAPE[0] // size
    files = {name: shard([rank * rows, 0], [rows, 2], fill=16 * step + rank) for name in NAMES}
    return files | ({"state.json": b"{}"} if rank == 0 else {})


def save(store, size, step, files=files_of_rank, keep_errors=False):
    found = as_ranks(size, lambda ranks: store.save(step, files(ranks.rank, size, step), {"x": 1}, ranks))
    if not keep_errors:
        assert found == [store.path_of(step)] * size, found
    return found


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    store.prepare()
    return store


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_writes_its_shard_under_one_manifest(store, size):
    save(store, size, 7)
    found = verify(store.path_of(7))
    assert found.manifest["format_version"] == 2
    assert found.manifest["x"] == 1
    shards = [f"model.{number:05d}-of-{size:05d}.safetensors" for number in range(1, size + 1)]
    assert [file.name for file in found.tensor_files("model.safetensors")] == shards
    assert found.has("optimizer.safetensors") and not found.has("ema.safetensors")
    assert len(found.manifest["files"]) == 2 * size + 1
    for rank, name in enumerate(shards):
        content = files_of_rank(rank, size, 7)["model.safetensors"]
        assert (found.path / name).read_bytes() == content
        assert found.manifest["files"][name] == {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    assert (store.root / "latest").read_text() == "step-00000007\n"


def test_what_one_rank_alone_writes_has_the_form_of_one_process(store):
    """Byte for byte, and with the version that earlier bigtrains read."""
    content = files_of_rank(0, 1)
    as_ranks(2, lambda ranks: store.save(1, content if ranks.rank == 0 else {}, {}, ranks))
    store.save(2, content, {})
    both = [
        {file.name: file.read_bytes().replace(b'"step": 2', b'"step": 1') for file in store.path_of(step).iterdir()}
        for step in (1, 2)
    ]
    assert both[0] == both[1]
    assert set(both[0]) == {*NAMES, "state.json", "manifest.json"}
    assert json.loads(both[0]["manifest.json"])["format_version"] == 1


def test_an_earlier_bigtrain_refuses_shards(store, monkeypatch):
    save(store, 2, 1)
    monkeypatch.setattr(checkpoint, "SHARDED_FORMAT_VERSION", 1)
    with pytest.raises(CheckpointError, match="format version is 2"):
        verify(store.path_of(1))


def test_a_step_that_is_there_is_left_as_it_is(store):
    save(store, 2, 1)
    before = (store.path_of(1) / "manifest.json").read_bytes()
    assert as_ranks(2, lambda ranks: store.save(1, {"other": b""}, {}, ranks)) == [store.path_of(1)] * 2
    assert (store.path_of(1) / "manifest.json").read_bytes() == before


# Each rank of two writes two shards; rank 0 a document, then the manifest and `latest`.
@pytest.mark.parametrize(("failing", "call"), [(0, call) for call in range(1, 6)] + [(1, 1), (1, 2)])
def test_a_full_disk_at_one_rank_is_every_ranks_error(store, monkeypatch, failing, call):
    save(store, 2, 1)
    real, calls = durable.write_new, []

    def write_new(path, content):
        number = 1 if "00002-of" in path.name else 0
        calls.append(number)
        if number == failing and calls.count(failing) == call:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(durable, "write_new", write_new)
    found = save(store, 2, 2, keep_errors=True)
    assert all(isinstance(error, MachineError) and error.problems[0].code == "DISK-FULL" for error in found)
    told = [error.problems[0].message.startswith(f"rank {failing}: no space") for error in found]
    assert told == [rank != failing for rank in range(2)]
    monkeypatch.undo()
    assert not [path for path in store.root.glob(".tmp-*") if path.is_dir()]
    assert store.newest().step == (2 if (failing, call) == (0, 5) else 1), "after the commit only a hint is missing"
    save(store, 2, 3)


def test_the_space_that_all_ranks_need_is_asked_for(store, monkeypatch):
    one = sum(map(len, files_of_rank(1, 2).values()))

    class Usage:
        free = int(1.2 * 2 * one)

    monkeypatch.setattr(durable.shutil, "disk_usage", lambda path: Usage)
    found = save(store, 2, 1, keep_errors=True)
    assert all("no space" in str(error) for error in found), found
    Usage.free += 100
    save(store, 2, 1)


def test_a_folder_that_rank_0_does_not_share_is_named(store, monkeypatch):
    real = durable.write_new

    def write_new(path, content):
        digest = real(path, content)
        if "00002-of" in path.name:
            path.unlink()  # on another machine's disk
        return digest

    monkeypatch.setattr(durable, "write_new", write_new)
    found = save(store, 2, 1, keep_errors=True)
    assert all("rank 1 has written model.00002-of-00002.safetensors" in str(error) for error in found)
    assert list(store.root.iterdir()) == []


MODEL = [f"model.0000{number}-of-00002.safetensors" for number in (1, 2)]


def swapped(path):
    first, second = (path / name for name in MODEL)
    first.rename(path / "x"), second.rename(first), (path / "x").rename(second)


def changed(path):
    content = bytearray((path / MODEL[1]).read_bytes())
    content[-1] ^= 1
    (path / MODEL[1]).write_bytes(content)


HARMS = {
    "missing": (lambda path: (path / MODEL[1]).unlink(), f"{MODEL[1]} is missing"),
    "swapped": (swapped, f"{MODEL[0]} has other bytes"),
    "changed": (changed, f"{MODEL[1]} has other bytes"),
    "cut": (lambda path: (path / MODEL[1]).write_bytes((path / MODEL[1]).read_bytes()[:-1]), f"{MODEL[1]} has"),
    "added": (
        lambda path: shutil.copy(path / MODEL[0], path / "model.00003-of-00003.safetensors"),
        "is not in the manifest",
    ),
}


@pytest.mark.parametrize("readers", [1, 2, 3])
@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_named_and_survived_by_any_number_of_ranks(store, harm, readers, capsys):
    save(store, 2, 1)
    save(store, 2, 2)
    harm, words = HARMS[harm]
    harm(store.path_of(2))
    for error in as_ranks(readers, lambda ranks: verify(store.path_of(2), ranks)):
        assert isinstance(error, CheckpointError) and words in str(error), error
    found = as_ranks(readers, lambda ranks: store.newest(set_aside=True, ranks=ranks))
    assert [checkpoint.step for checkpoint in found] == [1] * readers
    assert capsys.readouterr().err.count("set aside") == 1
    assert len(list(store.root.glob(".bad-*"))) == 1


def test_ranks_that_read_verify_a_share_each(store, monkeypatch):
    save(store, 4, 1)
    hashed, real = [], durable.sha256_of
    monkeypatch.setattr(durable, "sha256_of", lambda path: hashed.append(path.name) or real(path))
    found = as_ranks(3, lambda ranks: store.newest(ranks=ranks))
    assert found[0] == found[1] == found[2]
    assert sorted(hashed) == sorted(found[0].manifest["files"]), "each file once"


def test_ranks_that_find_none_intact_never_start_afresh(store):
    assert as_ranks(2, lambda ranks: store.newest(ranks=ranks)) == [None, None]
    save(store, 2, 1)
    changed(store.path_of(1))
    for _ in range(2):
        found = as_ranks(2, lambda ranks: store.newest(set_aside=True, ranks=ranks))
        assert all("none is intact" in str(error) for error in found)


UNTILED = {
    "gap": ([shard([0, 0], [2, 2]), shard([3, 0], [1, 2])], "its parts have 6 of 8 elements"),
    "overlap": ([shard([0, 0], [3, 2]), shard([2, 0], [2, 2])], r"two parts overlap: \[0:3, 0:2\] and \[2:4, 0:2\]"),
    "twice": ([shard([0, 0], [2, 2]), shard([0, 0], [2, 2])], "two parts overlap"),
    "out of it": ([shard([0, 0], [2, 2]), shard([3, 0], [2, 2])], "reaches out of its shape"),
    "several shapes": ([shard([0, 0], [2, 2]), shard([2, 0], [2, 2], whole=(5, 2))], "several shapes or types"),
    "no header": ([shard([0, 0], [2, 2]), b"\xff" * 9], f"{MODEL[1]}: it has no header"),
    "one tensor less": ([shard([0, 0], [2, 2]), shard([0, 0], [2, 2], "other")], "weight: its parts have 4 of 8"),
}


@pytest.mark.parametrize("name", UNTILED)
def test_a_manifest_of_parts_that_do_not_tile_is_not_intact(store, name):
    contents, words = UNTILED[name]
    save(store, 2, 1)
    save(store, 2, 2, lambda rank, size, step: {"model.safetensors": contents[rank]})
    for readers in (1, 2):
        for error in as_ranks(readers, lambda ranks: verify(store.path_of(2), ranks)):
            with pytest.raises(CheckpointError, match=words):
                raise error
    assert store.newest().step == 1


def test_a_manifest_that_lists_only_some_shards_is_not_intact(store):
    save(store, 4, 1)
    path = store.path_of(1)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["model.00004-of-00004.safetensors"]
    (path / "model.00004-of-00004.safetensors").unlink()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"shards of model\.safetensors are not 1 to 3 of 3"):
        verify(path)


def test_names_of_shards():
    assert shard_names([["a.safetensors", "b.json"], ["a.safetensors", "c.safetensors"], []]) == [
        {"a.safetensors": "a.00001-of-00002.safetensors", "b.json": "b.json"},
        {"a.safetensors": "a.00002-of-00002.safetensors", "c.safetensors": "c.safetensors"},
        {},
    ]
    present = ["a.00002-of-00002.safetensors", "a.00001-of-00002.safetensors", "b.json", "c.safetensors"]
    assert files_of("a.safetensors", present) == present[1::-1]
    assert files_of("c.safetensors", present) == ["c.safetensors"]


@given(junk=st.binary(max_size=80))
def test_any_file_has_a_header_or_a_sentence(junk, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "junk"
    file.write_bytes(junk)
    with pytest.raises(ValueError, match=r"."):
        read_boxes(file)


ENTRIES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["shape", "dtype", "x"]), inner),
    max_leaves=8,
)


@given(header=st.dictionaries(st.sampled_from(["__metadata__", "x", "y"]), ENTRIES), boxes=ENTRIES)
def test_any_json_header_is_understood_or_a_sentence(header, boxes, tmp_path_factory):
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["boxes"] = json.dumps(boxes)
    text = json.dumps(header).encode()
    file = tmp_path_factory.getbasetemp() / "header"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        assert all(len(stored.shape) == len(stored.box.shape) for stored in read_boxes(file))
    except ValueError as error:
        assert str(error)
