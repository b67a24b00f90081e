"""The documents of a text file, in pieces: a file, and a document in it, may be larger than memory.

Formats by suffix: `.jsonl` (a document per line, under `text_key`) and `.parquet` (per row), anything else plain text,
UTF-8 or in an encoding that is named; the first and the last also as `.gz`. Line ends become "\\n", as Python's text
mode does. Which files are read: `data/text/text_corpus.py`.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bigtrain.data.tables.rows import Table, read_parquet
from bigtrain.data.text.lines import is_utf8, read_lines, undecodable
from bigtrain.data.text.text_files import FileState, broken_file, decode_utf8, json_object, read_chunks
from bigtrain.data.tokenizers import subword

Piece = tuple[str, bool]  # some text, and whether a document ends with it

SUFFIXES = (".txt", ".txt.gz", ".md", ".md.gz", ".jsonl", ".jsonl.gz", ".parquet")
_LONGEST_LINE_BYTES = 1 << 30  # of JSON: a document


@dataclass(frozen=True)
class Corpus:
    """Documents in pieces, read anew each time they are iterated over; `size_bytes`: about, to say how far one is."""

    read: Callable[[], Iterator[Piece]]
    size_bytes: int
    files: tuple[FileState, ...] = ()  # that they are read from, as they were before

    def __iter__(self) -> Iterator[Piece]:
        return self.read()


def in_memory(documents: list[str]) -> Corpus:
    """Documents that are there already, each a piece."""
    return Corpus(lambda: ((document, True) for document in documents), sum(map(len, documents)))


def read_pieces(path: Path, text_key: str, separator: str, encoding: str | None = None) -> Iterator[Piece]:
    """The documents of one file, without empty and blank ones. Raises DataError naming file (and line).

    A long one comes in the pieces that `data/tokenizers/subword.py` would cut the whole of it into.
    """
    if path.suffix == ".parquet":
        documents = (text for _, (text,) in read_parquet(Table(path, {"data.text_key": text_key})))
        return _cut((_with_our_line_ends(text), True) for text in documents)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        lines = read_lines(path, longest_bytes=_LONGEST_LINE_BYTES, encoding=encoding)
        return _cut(
            (_document_of(line, path, number, text_key), True) for number, line in lines if line and not line.isspace()
        )
    text = _decoded(path, encoding)
    return _cut(_split_at_lines(text, separator) if separator else _one_document(text))


def _cut(texts: Iterable[Piece]) -> Iterator[Piece]:
    """Blank documents left out, long ones in pieces."""
    held, is_blank = "", True
    for text, ends in texts:
        held = held + text if held else text
        is_blank = is_blank and (not held or held.isspace())
        if len(held) > subword.PIECE_CHARACTERS and not is_blank:
            *whole, held = subword.pieces_of([held])
            yield from ((piece, False) for piece in whole)
        if ends:
            if not is_blank:
                yield held, True
            held, is_blank = "", True


def _one_document(texts: Iterable[str]) -> Iterator[Piece]:
    yield from ((text, False) for text in texts)
    yield "", True


def _split_at_lines(texts: Iterable[str], separator: str) -> Iterator[Piece]:
    """The lines between separators; the line end before a separator belongs to it."""
    separator = separator.strip()
    held, glue = "", ""
    for text in texts:
        complete = text.rfind("\n") + 1
        if not complete:
            held += text
            continue
        lines, held = held + text[:complete], text[complete:]
        first = 0
        for start, stop in _lines_equal_to(separator, lines):
            yield (glue + lines[first : start - 1], True) if start > first else ("", True)
            first, glue = stop, ""
        if first < len(lines):
            yield glue + lines[first:-1], False
            glue = "\n"
    if held.strip() == separator:
        yield "", True
    else:
        yield glue + held, True


def _lines_equal_to(separator: str, lines: str) -> Iterator[tuple[int, int]]:
    """Where each line that is the separator, but for white space around it, begins, and where the next line does."""
    place = lines.find(separator)
    while 0 <= place < len(lines):
        start, stop = lines.rfind("\n", 0, place) + 1, lines.find("\n", place) + 1
        if lines[start:stop].strip() == separator:
            yield start, stop
        place = lines.find(separator, stop)


def _decoded(path: Path, encoding: str | None) -> Iterator[str]:
    other = None if encoding is None or is_utf8(encoding) else encoding
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(other or "utf-8-sig")(), translate=True)
    read_bytes = 0
    try:
        for chunk in read_chunks(path):
            read_bytes += len(chunk)
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeError as error:
        if other or not isinstance(error, UnicodeDecodeError):
            raise undecodable(path, other or "utf-8") from None
        data, at = error.object, error.start
        first = data.rfind(b"\n", 0, at) + 1  # decoding the one line again says where in the file it is wrong
        start = read_bytes - len(data) + first
        decode_utf8(data[first:].split(b"\n", 1)[0], path, _lines_before(path, start) + 1, start)


def _lines_before(path: Path, size_bytes: int) -> int:
    """Lines that end within the first bytes of a file."""
    lines = 0
    for chunk in read_chunks(path):
        lines += chunk.count(b"\n", 0, max(0, size_bytes))
        size_bytes -= len(chunk)
    return lines


def _document_of(line: str, path: Path, number: int, text_key: str) -> str:
    fix = f'each line is one object, such as {{"{text_key}": "the text"}}'
    row = json_object(line, path, number, fix)
    if text_key not in row:
        keys = ", ".join(list(row)[:10]) or "none"
        raise broken_file(
            path, f"it has no key {text_key!r}; its keys: {keys}", "name the key: data.text_key=...", number
        )
    text = row[text_key]
    if not isinstance(text, str):
        raise broken_file(path, f"its {text_key!r} is a {type(text).__name__}, not a text", fix, number)
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise broken_file(path, f"its {text_key!r} has a lone surrogate, so it is not Unicode", fix, number) from None
    return _with_our_line_ends(text)


def _with_our_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
