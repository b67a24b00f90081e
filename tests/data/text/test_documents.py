"""Documents come in pieces, which add up to what the whole file holds, wherever its bytes are cut."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text import text_files
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.documents import in_memory, read_pieces
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.data.tokenizers import subword
from bigtrain.errors import DataError


def pieces_and_documents(path, key="text", separator=""):
    pieces, documents = list(read_pieces(path, key, separator)), [""]
    for text, ends in pieces:
        documents[-1] += text
        documents += [""] * ends
    assert documents[-1] == ""
    return [text for text, _ in pieces], documents[:-1]


def expected_documents(content, separator):
    """Of the whole content at once."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    documents = [[]]
    for line in text.split("\n"):
        if separator and line.strip() == separator:
            documents.append([])
        else:
            documents[-1].append(line)
    joined = ["\n".join(lines) for lines in documents]
    return [document for document in joined if document and not document.isspace()]


parts = st.sampled_from(
    ["a", "the cat ", "é", "日本", "\N{ROCKET}", "\n", "\r\n", "\r", "\n<end>\n", " <end>", " ", "\ufeff"]
)


@given(st.lists(parts, max_size=60).map("".join), st.sampled_from(["", "<end>"]), st.integers(1, 7), st.integers(3, 30))
@settings(deadline=None, max_examples=300)
def test_any_text_in_any_chunks(tmp_path_factory, text, separator, read_bytes, piece_characters):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_READ_BYTES", read_bytes)
        patch.setattr(subword, "PIECE_CHARACTERS", piece_characters)
        patch.setattr(subword, "LONGEST_PIECE", 2 * piece_characters)
        pieces, documents = pieces_and_documents(path, separator=separator)
        assert documents == expected_documents(text.encode(), separator)
        assert pieces == list(subword.pieces_of(documents))  # so that a tokenizer gives the same ids


def test_a_long_document_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_READ_BYTES", 1000)
    monkeypatch.setattr(subword, "PIECE_CHARACTERS", 100)
    path = tmp_path / "long.txt"
    path.write_text("a line of words\n" * 1000)
    read, chunks = [], text_files.read_chunks(path)
    monkeypatch.setattr(
        "bigtrain.data.text.documents.read_chunks", lambda path: (read.append(chunk) or chunk for chunk in chunks)
    )
    pieces = read_pieces(path, "text", "")
    for number in range(20):
        assert sum(map(len, read)) <= 100 * number + 1200
        next(pieces)


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("bad", [b"\xe4", b"\xe6\x97", b"\xff"])
def test_where_it_is_not_utf8(tmp_path, monkeypatch, read_bytes, start, bad):
    monkeypatch.setattr(text_files, "_READ_BYTES", read_bytes)
    content = start + "first ü\nsecond ".encode() + bad
    for rest in (b"", b"!\nthird"):
        (tmp_path / "bad.txt").write_bytes(content + rest)
        with pytest.raises(DataError, match=f"byte {len(content) - len(bad) + 1} of the file") as caught:
            pieces_and_documents(tmp_path / "bad.txt")
        assert "bad.txt:2" in str(caught.value) and f"0x{bad[0]:02X}" in str(caught.value)


def test_documents_that_are_there_can_be_read_again():
    corpus = in_memory(["a", "b"])
    assert list(corpus) == list(corpus) == [("a", True), ("b", True)]


@pytest.fixture
def parquet(tmp_path):
    """Writes a table; a row group is two rows."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(name="a.parquet", **columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / name, row_group_size=2)
        return tmp_path / name

    return write


def test_parquet_is_the_same_text_as_jsonl(parquet, tmp_path):
    texts = ["one\r\ntwo", "", "thrée", " \n", *(f"text {number}" for number in range(9))]
    path = parquet(id=list(range(len(texts))), body=texts)
    rows = tmp_path / "a.jsonl"
    rows.write_text("\n".join(json.dumps({"body": text}) for text in texts))
    assert pieces_and_documents(path, "body") == pieces_and_documents(rows, "body")
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "b.parquet")
    found = [
        TextCorpus(TextCorpusConfig(path=str(where), text_key="body", sequence_length=4, cache_dir=str(tmp_path)))
        for where in (tmp_path / "folder", rows)
    ]
    assert found[0].spec == found[1].spec


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"body": ["a"], "id": [1]}, "no column 'text'; its columns: 'body', 'id'"),
        ({"text": [["a"]]}, "its 'text' is a list"),
        ({"text": [{"a": "b"}]}, "its 'text' is a dict"),
        ({"text": ["a", "b", None]}, "its 'text' is null"),
    ],
)
def test_a_parquet_file_without_such_texts_is_named(parquet, columns, why):
    path = parquet(**columns)
    with pytest.raises(DataError) as caught:
        pieces_and_documents(path)
    assert str(path) in str(caught.value) and why in str(caught.value)


def test_what_is_no_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    for content in (b"", b"PAR1 but no more", b"text"):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet") as caught:
            pieces_and_documents(tmp_path / "a.parquet")
        assert "Parquet" in str(caught.value)


def test_an_empty_parquet_file_is_like_any_other_empty_file(parquet):
    import pyarrow

    assert pieces_and_documents(parquet(text=pyarrow.array([], pyarrow.string()))) == ([], [])


def test_without_pyarrow_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'bigtrain\[data\]'"):
        pieces_and_documents(tmp_path / "a.parquet")
