"""Which files a folder holds: linked ones too, each once, in an order that is always the same."""

import os
from pathlib import Path

import pytest

from bigtrain.data.paths import Listing, dangling_link, list_files, warn_of_repeated
from bigtrain.errors import DataError


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_files_of_all_folders_come_in_the_order_of_their_paths(folder):
    write(
        folder / "b.txt",
        folder / "a" / "z.txt",
        folder / "a.txt",
        folder / "a" / "b" / "c.csv",
        folder / "a-b" / "x.txt",
    )
    assert list_files(folder) == Listing(sorted(p for p in folder.rglob("*") if p.is_file()), [], [])
    assert names(list_files(folder, lambda name: name.endswith(".csv")).files, folder) == ["a/b/c.csv"]


def test_hidden_files_and_folders_are_passed_over_and_others_on_request(folder):
    write(folder / "a", folder / ".b", folder / ".c" / "d", folder / "tests" / "e")
    link(folder / ".nowhere", "nothing")
    assert names(list_files(folder).files, folder) == ["a", "tests/e"]
    assert names(list_files(folder, skips=lambda name: name == "tests").files, folder) == [".b", ".c/d", "a"]


def test_linked_files_and_folders_are_followed_inside_linked_folders_too(folder, tmp_path):
    write(tmp_path / "other" / "x", tmp_path / "third" / "y", tmp_path / "file", folder / "b")
    link(tmp_path / "other" / "deeper", tmp_path / "third")
    link(folder / "a", tmp_path / "other")
    link(folder / "c", tmp_path / "file")
    assert names(list_files(folder).files, folder) == ["a/deeper/y", "a/x", "b", "c"]
    link(tmp_path / "top", folder)
    assert len(list_files(tmp_path / "top").files) == 4


def test_circles_of_links_end(folder, tmp_path):
    write(folder / "a" / "x", tmp_path / "other" / "y")
    link(folder / "a" / "self", ".")
    link(folder / "a" / "up", "..")
    link(folder / "there", tmp_path / "other")
    link(tmp_path / "other" / "back", folder)
    link(folder / "first", "second")
    link(folder / "second", "first")
    found = list_files(folder)
    assert names(found.files, folder) == ["a/x", "there/y"]
    assert names(found.repeated, folder) == ["a/self", "a/up", "there/back"]
    assert names(found.dangling, folder) == ["first", "second"]


def test_a_link_to_a_folder_above_brings_nothing_in(folder, tmp_path):
    write(folder / "class" / "x", folder / "other class" / "y", tmp_path / "z")
    link(folder / "class" / "up", "..")
    link(folder / "class" / "further up", tmp_path)
    found = list_files(folder / "class")
    assert names(found.files, folder) == ["class/x"] and len(found.repeated) == 2


def test_a_file_with_several_names_is_listed_once_by_the_one_that_is_no_link(folder, tmp_path):
    write(folder / "m", tmp_path / "other" / "x")
    link(folder / "a", "m")
    os.link(folder / "m", folder / "z")
    for name in ("b", "n"):
        link(folder / name, tmp_path / "other")
    found = list_files(folder)
    assert names(found.files, folder) == ["b/x", "m"] and names(found.repeated, folder) == ["a", "n", "z"]
    with pytest.warns(UserWarning, match=r"data: 3 names lead to what is read under another name already \(.*/a\)"):
        warn_of_repeated(folder, found.repeated)
    # The only name that is wanted counts, whatever others there are.
    assert names(list_files(folder, lambda name: name == "a").files, folder) == ["a"]


def test_links_inside_each_others_targets_lose_nothing(folder, tmp_path):
    write(tmp_path / "other" / "x", tmp_path / "other" / "sub" / "y")
    link(folder / "a", tmp_path / "other" / "sub")
    link(folder / "b", tmp_path / "other")
    found = list_files(folder)
    assert names(found.files, folder) == ["a/y", "b/x"] and not found.repeated


def test_a_link_to_nothing_is_named(folder):
    write(folder / "a")
    link(folder / "b.txt", "/mnt/gone")
    found = list_files(folder)
    assert names(found.files, folder) == ["a"] and found.dangling == [folder / "b.txt"]
    assert "b.txt" in str(dangling_link(folder / "b.txt")) and "/mnt/gone, which leads nowhere" in str(
        dangling_link(folder / "b.txt")
    )


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    write(folder / "secret" / "a")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"secret\n  cause: Permission denied"):
        list_files(folder)
    with pytest.raises(DataError, match=r"nowhere\n  cause: No such file"):
        list_files(folder / "nowhere")
