"""A stranger's YAML is data: small, shallow, plain; anything else is refused before it is interpreted."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.config.overrides import escape
from bigtrain.config.yaml_files import foreign_resolver, line_of, parse_checked, read_document
from bigtrain.errors import ConfigError
from tests.config.composing import refusal, write

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "alias bomb": (BOMB, "an anchor or alias"),
    "tag": ("x: !!python/object/apply:os.system [id]\n", "the tag"),
    "depth": ("x: " + "[" * 40 + "]" * 40 + "\n", "more than 32 levels"),
    "many keys": (
        "extra:\n" + "".join(f"  k{i}: {i}\n" for i in range(15_000)),
        "more than 1500 keys and values",
    ),
    "many wrong keys": ("".join(f"k{i}: {i}\n" for i in range(700)), "there may be more"),
    "many values": ("extra: {x: [" + "[]," * 80_000 + "]}\n", "more than 1500 keys and values"),
    "many references": ("name: " + "${a}" * 60_000 + "\n", "the resolver"),
    "many openings": ("name: " + "${" * 100_000 + "\n", "the resolver"),
    "size": ("x: " + "y" * 300_000 + "\n", "larger than 256 kB"),
    "twice": ("seed: 1\nseed: 2\n", "the key seed twice"),
    "nested twice": ("trainer:\n  gpus: 1\n  gpus: 2\n", "the key gpus twice"),
    "resolver": ("name: ${oc.decode:x}\n", "the resolver"),
    "not yaml": ("a: [1\n", "is not valid YAML"),
    "tab": ("a:\n\tb: 1\n", "is not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    "list": ("- 1\n", "has no keys"),
    "defaults": ("defaults: 3\n", "a defaults list that is no list"),
    "null in defaults": ("defaults: [null]\n", "more than names"),
    "list as key": ("? [a]\n: b\n", "a list or mapping as a key"),
    "null as key": ("null: 3\n", "can't be used"),
    "endless number": ("seed: " + "9" * 5000 + "\n", "can't be used"),
    "schema at hydra": ("defaults: [/data@hydra: mnist]\n", "a choice stands at the node of its group"),
    "self default": ("defaults: [nothing_here]\n", "does not exist"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_at_once(tmp_path, name):
    text, expected = HOSTILE[name]
    write(tmp_path, "experiment/bad", f"# @package _global_\n{text}")
    started = time.process_time()  # CPU seconds: the machine may be busy with other tests
    message = refusal("experiment=bad", folder=tmp_path)
    assert time.process_time() - started < 2
    assert expected in message


def test_binary_file_is_refused(tmp_path):
    write(tmp_path, "experiment/bad", "").write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in refusal("experiment=bad", folder=tmp_path)


def test_missing_folder_is_refused(tmp_path):
    assert "there is no such folder" in refusal(folder=tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("${a.b}", ""),
        ("${oc.env:HOME}", ""),
        ("${oc.env:A,${b}}", ""),
        ("${hydra:runtime.choices.model}", ""),
        ("\\${evil:x}", ""),
        ("${evil:x}", "evil"),
        ("${ evil :x}", "evil"),
        ("a ${oc.env:A,${evil:x}}", "evil"),
        ("${${a}:x}", "_"),
        ("${oc.${a}:x}", "oc._"),
        ("\\\\${evil:x}", "evil"),
        ("\\${a} ${evil:x}", "evil"),
        ('${oc.env:"}${evil:x}"}', "evil"),
        ("${unclosed", "?"),
    ],
)
def test_only_pointing_resolvers_are_allowed(text, name):
    assert foreign_resolver(text) == name


@given(st.text(alphabet="ab${}\\:.,'\" ", max_size=12))
def test_escaped_text_is_read_back_exactly(text):
    from omegaconf import OmegaConf

    assert OmegaConf.create({"x": escape(text)}).x == text
    assert foreign_resolver(escape(text)) == ""


@given(st.text(max_size=200))
def test_any_text_parses_or_is_refused(text):
    try:
        parse_checked(text, "file")
    except ConfigError as error:
        assert "file" in str(error)


def test_line_of_a_key(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb:\n  c: 2\n")
    assert line_of(path, ("b", "c")) == 3
    assert line_of(path, ("model", "b", "c")) == 3
    assert line_of(path, ("nope",)) is None


def test_read_document_refuses_what_is_no_config(tmp_path):
    path = tmp_path / "config.json"
    for text in (
        "[]",
        "{",
        "[" * 100_000,
        "x" * 1_100_000,
        '{"a": ' * 40 + "1" + "}" * 40,
        f"[{'1,' * 3000}1]",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_document(path)
