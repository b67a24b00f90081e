"""Rows come out of every format alike, and whatever is wrong with a table is said with its file and line."""

import csv
import gzip
import io
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bigtrain.data.tables.rows import Table, read_rows
from bigtrain.data.text.lines import read_lines
from bigtrain.errors import DataError

NAMED = {"data.text_column": "text", "data.label_column": "label"}
PLACED = {"data.text_column": "2", "data.label_column": "1"}


def rows(tmp_path, name, content, columns=NAMED):
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_rows(Table(path, columns)))


TEXTS = [("good", "1"), ('a, "b" c\'', "0"), ("Ünï 日本", "yes")]
TSV = "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in TEXTS)
JSONL = "\n".join(json.dumps({"text": text, "id": 3, "label": label}) for text, label in TEXTS)


def as_csv(table):
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerows(table)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.tsv", TSV), ("a.csv", as_csv([("text", "label"), *TEXTS])), ("a.jsonl", JSONL), ("a.tsv", "\ufeff" + TSV)],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content, packed):
    data = content.encode()
    found = rows(tmp_path, name + ".gz" * packed, gzip.compress(data) if packed else data)
    assert [row for _, row in found] == TEXTS


def test_parquet_gives_the_same_rows(tmp_path):
    table = pyarrow.table({"label": [label for _, label in TEXTS], "text": [text for text, _ in TEXTS]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for columns in (NAMED, PLACED):
        assert list(read_rows(Table(tmp_path / "a.parquet", columns))) == list(enumerate(TEXTS, 1))


def test_without_names_the_first_line_is_a_row(tmp_path):
    assert rows(tmp_path, "a.tsv", b"1\tgood\n0\tbad\n", PLACED) == [(1, ("good", "1")), (2, ("bad", "0"))]


def test_blank_lines_are_passed_over_and_lines_counted(tmp_path):
    content = b'text,label\r\n\r\n"two\r\nlines",1\r\n\r\nlast,0\r\n'
    assert rows(tmp_path, "a.csv", content) == [(3, ("two\nlines", "1")), (6, ("last", "0"))]
    assert rows(tmp_path, "a.tsv", b"text\tlabel\n\na\t1\n") == [(3, ("a", "1"))]


def test_numbers_and_truth_become_text(tmp_path):
    content = b'{"text": "a", "label": 1}\n{"text": "b", "label": true}\n{"text": "c", "label": 1.0}\n'
    assert [label for _, (_, label) in rows(tmp_path, "a.jsonl", content)] == ["1", "true", "1.0"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "A.JSON", "a.ndjson"])
def test_a_json_array_gives_the_same_rows(tmp_path, name, indent):
    data = json.dumps([{"text": text, "label": label} for text, label in TEXTS], indent=indent).encode()
    assert rows(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data) == list(enumerate(TEXTS, 1))


def test_a_json_file_may_hold_an_object_a_line(tmp_path):
    assert [row for _, row in rows(tmp_path, "a.json", JSONL.encode())] == TEXTS


@pytest.mark.parametrize("content", [b'{"text": "a", "label": null}', b'{"text": "a"}', b'{"text": "a", "label": NaN}'])
def test_a_column_that_may_be_null_is_empty_then(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert list(read_rows(Table(tmp_path / "a.jsonl", NAMED, nullable=["label"]))) == [(1, ("a", ""))]


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), st.just("x")), min_size=1))
def test_any_text_survives_csv(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("csv")
    found = rows(folder, "a.csv", as_csv([("text", "label"), *table]).encode())
    assert [row for _, row in found] == table


@pytest.mark.parametrize(
    ("name", "content", "where", "why"),
    [
        ("a.tsv", b"", "a.tsv", "no rows"),
        ("a.csv", b"text,label\n", "a.csv", "no rows"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "a.jsonl.gz", "no rows"),
        ("a.tsv", b"text\tlabel\na\t1\nb\n", "a.tsv:3", "it has 1 field(s), line 1 has 2"),
        ("a.csv", b'text,label\n"a\nb",1\nc,d,1\n', "a.csv:4", "it has 3 field(s), line 1 has 2"),
        ("a.csv", b'text,label\nb,0\n"never closed,1\n', "a.csv:3", "no CSV"),
        ("a.csv", b"body;label\na;1\n", "a.csv:1", "its columns: 'body', 'label'"),
        ("a.csv", b"text,text,label\na,b,1\n", "a.csv:1", "more than one column 'text'"),
        ("a.tsv", b"text\tlabel\nfine\t1\ncaf\xe9\t0\n", "a.tsv:3", "byte 0xE9 is not UTF-8 (byte 22 of the file)"),
        ("a.tsv", b"\xef\xbb\xbfte\xe9t\tlabel\n", "a.tsv:1", "byte 0xE9 is not UTF-8 (byte 6 of the file)"),
        ("a.tsv", "text\tlabel\n".encode("utf-16"), "a.tsv:1", "0xFF is not UTF-8"),
        ("a.tsv", b"text\tlabel\na\0b\t1\n", "a.tsv:2", "byte 13 of the file is a NUL"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"\n', "a.jsonl:2", "not JSON"),
        ("a.jsonl", b'["a", 1]\n["b", 0]\n', "a.jsonl:1", "a list, not an object"),
        ("a.json", b"[1, 2]", "a.json", "element 1 of the array is a int, not an object"),
        ("a.json", b'[{"text": "a", "label": 1},\n{"text": "b"', "a.json:2", "not JSON"),
        ("a.json", b'[{"text": "a", "label": 1},\n{"label": 0}]', "a.json:2", "no key 'text'"),
        ("a.json", b'{"text": {"0": "a"}}', "a.json:1", "no key 'label'"),
        ("a.jsonl", b'{"body": "a", "label": 1}', "a.jsonl:1", "no key 'text'; its keys: 'body', 'label'"),
        ("a.jsonl", b'{"text": null, "label": 1}', "a.jsonl:1", "'text' is null"),
        ("a.jsonl", b'{"text": "a", "label": NaN}', "a.jsonl:1", "'label' is null"),
        ("a.jsonl", b'{"text": "a", "label": [1]}', "a.jsonl:1", "'label' is a list"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', "a.jsonl:1", "surrogate"),
        ("a.xlsx", b"PK", "a.xlsx", ".xlsx is no table"),
        ("a.parquet", b"PAR1", "a.parquet", "no Parquet"),
        ("a.tsv.gz", gzip.compress(TSV.encode(), mtime=0)[:-9], "a.tsv.gz", "no complete gzip"),
        ("a.tsv.gz", b"plain", "a.tsv.gz", "Not a gzipped file"),
        (
            "a.tsv.gz",
            gzip.compress(b"text\tlabel\n" + (b"a" * 4094 + b"\t1\n") * (5 << 10), mtime=0),
            "a.tsv.gz",
            "times its packed size",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, content, where, why):
    with pytest.raises(DataError) as caught:
        rows(tmp_path, name, content)
    assert f"{tmp_path}/{where}\n" in str(caught.value) and why in str(caught.value)
    assert caught.value.problems[0].fix


@pytest.mark.parametrize("position", ["0", "3"])
def test_a_position_beyond_the_columns_names_its_setting(tmp_path, position):
    with pytest.raises(DataError, match=f"data.text_column is {position}, but its columns are 1 to 2"):
        rows(tmp_path, "a.tsv", b"1\tgood\n", PLACED | {"data.text_column": position})


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        next(read_rows(Table(tmp_path / "none.tsv", NAMED)))


def test_without_pyarrow_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'bigtrain\[data\]'"):
        rows(tmp_path, "a.parquet", b"")


def test_lines_are_read_one_by_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\x0bc\xe2\x80\xa8d\n\nlast \xe9\n")
    lines = read_lines(path)
    assert [next(lines) for _ in range(3)] == [(1, "a"), (2, "b\x0bc\u2028d"), (3, "")]
    with pytest.raises(DataError, match=":4"):
        next(lines)


@pytest.mark.parametrize("key", ["data", "rows"])
def test_an_array_inside_an_object_is_named(tmp_path, key):
    table = json.dumps({"version": 1, key: [{"text": "a", "label": 1}]}).encode()
    with pytest.raises(DataError, match=f"'{key}' is an array of objects\n.*save the array '{key}' alone"):
        rows(tmp_path, "a.json", table)
