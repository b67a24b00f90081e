"""A cache entry appears whole or not at all, is found again, and is never trusted when damaged."""

import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build


def build():
    return Prepared({"fact": 1}, {"tokens": np.arange(1000, dtype=np.uint16), "other": np.ones((2, 3))})


def never():
    raise AssertionError("built although it was in the cache")


def test_the_second_start_finds_a_memory_map(tmp_path):
    load_or_build(tmp_path / "deep" / "cache", "text", "key", build)
    found = load_or_build(tmp_path / "deep" / "cache", "text", "key", never)
    assert found.meta == {"fact": 1}
    np.testing.assert_array_equal(found.arrays["tokens"], np.arange(1000))
    assert isinstance(found.arrays["tokens"].base, np.memmap) and not found.arrays["tokens"].flags.writeable
    assert (tmp_path / "deep" / "cache" / "text").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "deep" / "cache" / "text").iterdir()] == ["key"]


@pytest.mark.parametrize("name", ["tokens.npy", "other.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["remove", "truncate", "empty", "append", "garbage"])
def test_a_damaged_entry_is_built_again(tmp_path, name, damage):
    load_or_build(tmp_path, "text", "key", build)
    path = tmp_path / "text" / "key" / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        damaged = {"truncate": content[:-1], "empty": b"", "append": content + b"x"}
        path.write_bytes(damaged.get(damage, b"\xff" * len(content)))
    again = load_or_build(tmp_path, "text", "key", build)
    np.testing.assert_array_equal(again.arrays["tokens"], np.arange(1000))
    np.testing.assert_array_equal(load_or_build(tmp_path, "text", "key", never).arrays["other"], np.ones((2, 3)))


def test_where_nothing_can_be_written_it_works_from_memory_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="data.cache_dir") as caught:
        found = load_or_build(tmp_path / "file" / "cache", "text", "key", build)
    assert len(caught) == 1 and len(found.arrays["tokens"]) == 1000


def test_a_failing_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        load_or_build(tmp_path, "text", "key", build)
    assert list((tmp_path / "text").iterdir()) == []


def test_what_a_killed_build_left_is_removed_after_a_day(tmp_path):
    for name, age in (("old", 2 * 86400), ("young", 10)):
        folder = tmp_path / "text" / f".tmp-{name}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    load_or_build(tmp_path, "text", "key", build)
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == [".tmp-young", "key"]


def test_another_process_that_was_faster_is_no_harm(tmp_path):
    def slow():
        load_or_build(tmp_path, "text", "key", build)
        return build()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_or_build(tmp_path, "text", "key", slow)
    assert len(found.arrays["tokens"]) == 1000
    assert [path.name for path in (tmp_path / "text").iterdir()] == ["key"]


def test_processes_that_build_at_once_all_succeed(tmp_path):
    code = (
        "import sys, pathlib, warnings, numpy as np; warnings.simplefilter('error');"
        "from bigtrain.data.cache import *;"
        "build = lambda: Prepared({}, {'tokens': np.arange(10**5)});"
        "root = pathlib.Path(sys.argv[1]);"
        "[load_or_build(root, 'text', str(key), build).arrays['tokens'][-1] for key in range(20)]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == sorted(map(str, range(20)))


def test_the_default_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root(None) == tmp_path / ".cache" / "bigtrain"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(None) == tmp_path / "xdg" / "bigtrain"
    assert cache_root("~/mine") == tmp_path / "mine"


def test_fingerprints_tell_values_types_and_borders_apart():
    parts = [
        ("ab", "c"),
        ("a", "bc"),
        (np.array([1, 2], np.uint8),),
        (np.array([1, 2], np.uint16),),
        (np.array([[1, 2]], np.uint8),),
        (np.array([2, 1], np.uint8),),
        ([1, 2],),
    ]
    assert len({fingerprint_of(*part) for part in parts}) == len(parts)
    assert fingerprint_of(np.arange(6).reshape(2, 3).T) == fingerprint_of(np.arange(6).reshape(2, 3).T.copy())
