"""text_corpus reads what it is given, notices every change, and names file and line of what it can't read."""

import gzip
import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bigtrain.data.text.text_files as text_files
from bigtrain.config.settings import find_problems
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.documents import read_pieces
from bigtrain.data.text.text_corpus import TextCorpus, find_files
from bigtrain.data.text.text_files import content_hash
from bigtrain.errors import DataError

STORY = "It was a dark and stormy night; the rain fell in torrents. " * 20


def corpus(tmp_path, **settings):
    settings = {"sequence_length": 8, "cache_dir": str(tmp_path / "cache"), **settings}
    return TextCorpus(TextCorpusConfig(**settings))


def read_documents(path, text_key, separator):
    documents = [""]
    for text, ends in read_pieces(path, text_key, separator):
        documents[-1] += text
        documents += [""] * ends
    return documents[:-1]


def text_of(corpus, split):
    dataset = corpus.dataset(split)
    samples = dataset.gather(range(len(dataset)))
    first = samples["tokens"][0, :1].tolist()
    return corpus.tokenizer.decode(first + samples["tokens"][:, 1:][samples["scored"]].tolist())


def test_a_file_comes_back_as_nanogpt_splits_it(tmp_path):
    (tmp_path / "story.txt").write_text(STORY)
    data = corpus(tmp_path, path=str(tmp_path / "story.txt"), split="nanogpt")
    cut = int(len(STORY) * 0.9)
    assert text_of(data, "train") == STORY[:cut]
    assert text_of(data, "val") == STORY[cut:]
    assert "test" not in data.spec.sizes  # a test split that is the validation split would flatter


def test_documents_apart_are_other_samples_of_the_same_tokens(tmp_path):
    (tmp_path / "a.txt").write_text("one\n<end>\n" * 30 + "two")
    settings = {"path": str(tmp_path / "a.txt"), "document_separator": "<end>"}
    across, apart = (corpus(tmp_path, **settings, attend_across_documents=setting) for setting in (True, False))
    assert across.spec.fingerprint != apart.spec.fingerprint and across.spec.sizes == apart.spec.sizes
    samples = apart.dataset("train").gather(range(3))
    assert samples.keys() - across.dataset("train").gather(range(3)).keys() == {"documents"}
    (tmp_path / "b.txt").write_text(STORY)
    with pytest.warns(match="each split is one document"):
        corpus(tmp_path, path=str(tmp_path / "b.txt"), attend_across_documents=False)


def test_own_files_for_each_split(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 20)
    paths = {key: str(tmp_path / f"{name}.txt") for key, name in (("train_path", "a"), ("val_path", "b"))}
    data = corpus(tmp_path, **paths)
    assert [text_of(data, split)[0] for split in data.spec.sizes] == ["a", "b"]
    data = corpus(tmp_path, **paths, test_path=str(tmp_path / "c.txt"))
    assert [text_of(data, split)[0] for split in ("train", "val", "test")] == ["a", "b", "c"]


def test_val_is_held_out_of_train_where_it_has_no_files(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {number}. " for number in range(100)))
    paths = {f"{name}_path": str(tmp_path / f"{name}.txt") for name in ("train", "test")}
    given = [(tmp_path / f"{name}.txt").read_text() for name in ("train", "test")]
    for given_settings, fraction in (({}, 0.1), ({"val_fraction": 0.25}, 0.25)):
        with pytest.warns(UserWarning, match=f"{fraction} of train is held out for val"):
            data = corpus(tmp_path, **paths, **given_settings)
        assert text_of(data, "train") + text_of(data, "val") == given[0] and text_of(data, "test") == given[1]
        assert len(text_of(data, "val")) == round(len(given[0]) * fraction)
    with pytest.warns(UserWarning, match="held out"):
        assert list(corpus(tmp_path, train_path=paths["train_path"]).spec.sizes) == ["train", "val"]


def test_files_in_a_directory_and_by_glob(tmp_path):
    for name in (
        "b.txt",
        "a.md",
        "sub/c.jsonl",
        "sub/d.txt.gz",
        "e.py",
        ".hidden.txt",
        ".git/f.txt",
        "g.txtx",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(path):
        return [file.relative_to(tmp_path).as_posix() for file in find_files(str(path), "data.path")]

    assert names(tmp_path) == ["a.md", "b.txt", "sub/c.jsonl", "sub/d.txt.gz"]
    assert names(tmp_path / "*") == ["a.md", "b.txt", "e.py", "g.txtx"]
    assert names(tmp_path / "**" / "*.gz") == ["sub/d.txt.gz"]
    assert names(tmp_path / "e.py") == ["e.py"]


def test_links_are_followed_and_each_file_counts_once(tmp_path):
    for name in ("here/a.txt", "there/b.txt", "there/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    here = tmp_path / "here"
    (here / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "there/deep/back").symlink_to(here)
    assert find_files(str(here), "data.path") == [here / "a.txt", here / "linked/b.txt", here / "linked/deep/c.txt"]
    (here / "z.txt").symlink_to(here / "a.txt")
    for path in (here, f"{here}/*.txt"):
        with pytest.warns(UserWarning, match=r"names? leads? to what is read"):
            assert here / "z.txt" not in find_files(str(path), "data.path")


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.warns(UserWarning, match="gone is a link that leads nowhere"):
        find_files(str(tmp_path), "data.path")
    (tmp_path / "b.txt").symlink_to(tmp_path / "nothing")
    for path in (tmp_path, tmp_path / "b.txt", f"{tmp_path}/*.txt"):
        with pytest.raises(DataError, match=r"b.txt\n.*a link to .*nothing, which leads nowhere"):
            find_files(str(path), "data.path")


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 30)
    module = "bigtrain.data.text.text_corpus"
    read = read_pieces

    def changing(path, *words):
        if path.name == "b.txt":
            path.write_text("other")
        return read(path, *words)

    monkeypatch.setattr(f"{module}.read_pieces", changing)
    with pytest.raises(DataError, match="b.txt changed while it was being read"):
        corpus(tmp_path, path=str(tmp_path / "*.txt"))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_another_encoding_is_read_when_it_is_set(tmp_path, encoding, name):
    text = "Ä “ö”\n" * 30
    (tmp_path / name).write_bytes(
        (text if name == "a.txt" else json.dumps({"text": text}, ensure_ascii=False)).encode(encoding)
    )
    with pytest.raises(DataError, match=f"data.encoding={encoding}"):
        corpus(tmp_path, path=str(tmp_path / name))
    data = corpus(tmp_path, path=str(tmp_path / name), encoding=encoding, split="nanogpt")
    assert text_of(data, "train") == text[: int(len(text) * 0.9)]
    (tmp_path / name).write_bytes(b'{"text": "a"}\n"\x81')
    with pytest.raises(DataError, match=rf"{name}:2\n.*is not cp1252" if encoding == "cp1252" else "is not utf-16"):
        corpus(tmp_path, path=str(tmp_path / name), encoding=encoding)


@pytest.mark.parametrize("path", ["nothing.txt", "*.nothing", "empty", "\0", "~no-such-user/x"])
def test_a_path_without_text_is_an_error_with_the_key(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="data.path"):
        corpus(tmp_path, path=path)


def test_formats(tmp_path):
    def documents(name, content, separator="", packed=False):
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
        return read_documents(tmp_path / name, "text", separator)

    rows = b'{"text": "one\\r\\ntwo", "id": 1}\n\n{"text": ""}\r\n{"text": "three\xe2\x80\xa8"}'
    assert documents("a.jsonl", rows) == documents("a.jsonl.gz", rows, packed=True) == ["one\ntwo", "three\u2028"]
    text = b"\xef\xbb\xbfone\r\ntwo\rthree"
    assert documents("a.txt", text) == documents("a.txt.gz", text, packed=True) == ["one\ntwo\nthree"]
    assert documents("b.txt", b"one\n<end>\n\n<end>\ntwo\n", "<end>") == ["one", "two\n"]
    assert documents("c.txt", b" \n\t") == documents("d.txt", b"") == []


@pytest.mark.parametrize(
    ("name", "content", "where", "why"),
    [
        ("a.txt", b"good\nb\xe4d", "a.txt:2", "0xE4 is not UTF-8"),
        ("a.txt.gz", b"no gzip", "a.txt.gz", "gzip"),
        ("a.txt.gz", gzip.compress(b"cut short" * 99, mtime=0)[:-20], "a.txt.gz", "gzip"),
        ("a.txt.gz", gzip.compress(b"flipped" * 99, mtime=0)[:-6] + b"\0" * 6, "a.txt.gz", "CRC"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl:2", "not JSON"),
        ("a.jsonl", b'{"text": "a"}\n["a"]', "a.jsonl:2", "a list, not an object"),
        ("a.jsonl", b'\n\n{"body": "a"}', "a.jsonl:3", "its keys: body"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl:1", "a int, not a text"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1", "surrogate"),
        ("a.jsonl", b'{"text": "b\xe4d"}', "a.jsonl:1", "0xE4 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1", "not JSON"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, where, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        corpus(tmp_path, path=str(tmp_path / name))
    assert f"{tmp_path}/{where}" in str(caught.value) and why in str(caught.value)
    assert caught.value.problems[0].fix


def test_a_gzip_bomb_is_refused_before_it_fills_memory(tmp_path):
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a" * (100 << 20)))
    with pytest.raises(DataError, match="times its packed size"):
        read_documents(tmp_path / "bomb.txt.gz", "text", "")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="not an ordinary file"):
        corpus(tmp_path, path=str(tmp_path / "pipe.txt"))


def test_an_empty_corpus_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        corpus(tmp_path, path=str(tmp_path / "a.txt"))


@given(st.binary(max_size=200), st.sampled_from(["f.txt", "f.jsonl", "f.txt.gz", "f.jsonl.gz"]), st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_bytes_give_text_or_a_data_error(tmp_path_factory, content, name, packed):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        documents = read_documents(path, "text", "")
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(document.strip() and document.encode() for document in documents)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.just("text"), x)))
@settings(deadline=None)
def test_any_json_row_gives_text_or_a_data_error(tmp_path_factory, row):
    path = tmp_path_factory.getbasetemp() / "row.jsonl"
    path.write_text(json.dumps(row))
    try:
        read_documents(path, "text", "")
    except DataError as error:
        assert f"{path}:1" in str(error)


@pytest.mark.parametrize("always_hashed_bytes", [64 << 20, 0], ids=["small", "large"])
def test_a_changed_source_is_noticed(tmp_path, monkeypatch, always_hashed_bytes):
    """Also one of the same size, with its old time of modification put back."""
    monkeypatch.setattr(text_files, "_ALWAYS_HASHED_BYTES", always_hashed_bytes)
    monkeypatch.setattr(text_files, "_RECENT_SECONDS", 0.05)
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    time.sleep(0.1)
    before, first = path.stat(), corpus(tmp_path, path=str(path)).spec
    assert corpus(tmp_path, path=str(path)).spec == first
    path.write_text(STORY.replace("dark", "DARK"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert corpus(tmp_path, path=str(path)).spec.fingerprint != first.fingerprint


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_ALWAYS_HASHED_BYTES", 0)
    monkeypatch.setattr(text_files, "_RECENT_SECONDS", 0.05)
    path = tmp_path / "a.txt"
    path.write_text(STORY)
    fresh = content_hash([path], str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # changed a moment ago: a clock tick could hide another change
    time.sleep(0.1)
    assert content_hash([path], str(tmp_path / "cache")) == fresh
    monkeypatch.setattr(text_files, "_hash_contents", lambda files: "hashed again")
    assert content_hash([path], str(tmp_path / "cache")) == fresh


def test_the_hash_is_of_contents_not_of_places(tmp_path):
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").write_text(text)
    a, b, c = (content_hash([tmp_path / name / f"{name}.txt"], None) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "split",
    [
        "",
        "1",
        "0.5,0.5",
        "a,b,c",
        "nan,nan,nan",
        "1,0,0",
        "0,0.5,0.5",
        "0.5,0.6,-0.1",
        "0.5,0.5,0.5",
        "inf,1,1",
    ],
)
def test_a_split_that_makes_no_sense_is_a_config_problem(split):
    assert find_problems(TextCorpusConfig(path="x", split=split))


@pytest.mark.parametrize("split", ["nanogpt", "0.9,0.05,0.05", "0.8,0.2,0"])
def test_a_sensible_split_is_none(split):
    assert find_problems(TextCorpusConfig(path="x", split=split)) == []
