"""Hydra stands behind one module: its words, the order of its files, and a process that is left as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bigtrain.config.hydra_adapter import (
    HydraException,
    files_in_order,
    forget_facts,
    is_comma_list,
    names_override,
    offer_facts,
    parse_override,
    quote,
    quoted_text,
    swept_texts,
    text_override,
    texts_override,
)
from bigtrain.config.sources import OWN, Folder, Sources
from tests.config.composing import write

PACKAGE = Path(__file__).parents[2] / "bigtrain"


def test_no_other_module_names_hydra() -> None:
    imports = re.compile(r"^\s*(import hydra\b|from hydra(_plugins)?\b)", re.MULTILINE)
    named = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if imports.search(path.read_text())}
    assert named == {"config/hydra_adapter.py"}


def test_one_undocumented_import_is_left() -> None:
    text = (PACKAGE / "config/hydra_adapter.py").read_text()
    assert re.findall(r"(?:from|import) (hydra\._internal[\w.]*)", text) == ["hydra._internal.utils"]


@given(st.text(max_size=30))
def test_a_quoted_text_is_read_back_exactly(text):
    assert parse_override(f"key={quote(text)}").value() == text
    override = text_override("key", text, "as typed")
    assert (override.value(), override.input_line) == (text, "as typed")
    assert parse_override(f"key={quoted_text(override)}").value() == text


def test_a_sweep_over_texts_keeps_them_as_they_stand():
    override = texts_override("data.path", ["a,b", "null", "3"], "data.path=…")
    assert override.is_sweep_override()
    assert swept_texts(override) == ["a,b", "null", "3"]
    assert swept_texts(parse_override("key=choice(a,'b c')")) == ["a", "b c"]
    assert swept_texts(parse_override("key=choice(a,3)")) == swept_texts(parse_override("key=a")) == []


def test_kinds_of_words():
    assert is_comma_list(parse_override("key=a,b"))
    assert not is_comma_list(parse_override("key=choice(a,b)"))
    assert quoted_text(parse_override("key=a")) is None
    assert names_override(parse_override("model=glob(c*)"), ["cnn"]).value() == ["cnn"]
    with pytest.raises(HydraException):
        parse_override("key=[1")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    write(tmp_path, "root", "defaults: [schema/compare, group: one, optional other: null, _self_]\nmetric: loss\n")
    write(tmp_path, "group/one", "# @package _global_\ndefaults: [two]\nx: 1\n")
    write(tmp_path, "group/two", "y: 2\n")
    write(tmp_path, "group/nan", "x: 3\n")
    write(tmp_path, "other/a", "")
    write(tmp_path, "other/b", "z: 1\n")
    return Sources([Folder(OWN, tmp_path)])


def test_the_order_of_the_files_and_their_places(sources):
    entries, choices = files_in_order(sources, "root", [])
    assert [(entry.path, entry.package) for entry in entries] == [
        ("schema/compare", ""),
        ("group/two", ""),
        ("group/one", ""),
        ("root", ""),
    ]
    assert choices == {"group": "one", "other": None}


def test_a_root_with_values_and_no_place_for_them_is_warned_of(sources, tmp_path):
    write(tmp_path, "bare", "defaults: [group: one]\nmetric: loss\n")
    with pytest.warns(UserWarning, match="In 'bare': Defaults list is missing `_self_`"):
        entries, _ = files_in_order(sources, "bare", [])
    assert entries[-1].path == "bare"


def test_words_choose(sources):
    entries, choices = files_in_order(sources, "root", ["group='nan'", "other=['a','b']"])
    assert [entry.path for entry in entries] == ["schema/compare", "group/nan", "other/a", "other/b", "root"]
    assert choices["group"] == "nan"


@pytest.mark.parametrize(
    ("root", "words", "reason"),
    [
        ("root", ["group='nope'"], "Could not find 'group/nope'"),
        ("root", ["nothing=1", "~group=two"], "Could not delete"),
        ("nope", [], "Cannot find primary config 'nope'"),
    ],
)
def test_what_hydra_refuses(sources, root, words, reason):
    """config/library.py reads these sentences: a release of Hydra that words them otherwise fails here."""
    with pytest.raises(HydraException, match=reason):
        files_in_order(sources, root, words)


def test_nothing_is_left_behind(sources):
    files_in_order(sources, "root", [])
    with pytest.raises(HydraException):
        files_in_order(sources, "nope", [])
    assert not GlobalHydra.instance().is_initialized()
    offer_facts({"model": "cnn"})
    assert OmegaConf.create({"x": "${hydra:runtime.choices.model}"}).x == "cnn"
    forget_facts()
    assert not HydraConfig.initialized()


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, "root", "seed: 1\n")
    folder = Folder(OWN, tmp_path)
    assert Sources([folder]).load("root").values.seed == 1
    write(tmp_path, "root", "seed: 22\n")
    assert Sources([folder]).load("root").values.seed == 22


def test_the_first_folder_wins_and_groups_are_joined(tmp_path):
    for folder, name in (("a", "one"), ("a", "both"), ("b", "two"), ("b", "both")):
        write(tmp_path / folder, f"group/{name}", f"from: {folder}\n")
    sources = Sources([Folder("a", tmp_path / "a"), Folder("b", tmp_path / "b")])
    assert sources.configs("group") == ["both", "one", "two"]
    assert sources.groups("") == ["group"]
    assert sources.load("group/both").values["from"] == "a"
    assert sources.has_group("schema/model")
    assert not sources.has_config("group/three")
