"""The lines of a text file, one after the other, so that a file may be larger than memory; plain or .gz, UTF-8 or in
another encoding that is named.

What a line holds: `data/tables/rows.py`, or the reader of aligned texts in `data/text/pairs.py`.
"""

from __future__ import annotations

import codecs
import gzip
import io
import math
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO, cast

from bigtrain.data.text.text_files import (
    broken_file,
    decode_utf8,
    how_to_decode,
    read_chunks,
    too_big_file,
    unpacked_limit_bytes,
    unreadable_file,
)
from bigtrain.errors import DataError

MAX_LINE_BYTES = 16 << 20  # of one line, or of one field of a CSV: more is no text to train on
_LOOKS_AT_BYTES = 1 << 16  # to see how lines end


def read_lines(
    path: Path, keep_ends: bool = False, longest_bytes: int = MAX_LINE_BYTES, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
    """Each line with its number, from 1 on. A line ends with "\\n" or "\\r\\n" and with nothing else; in a file that
    begins with lines that end with "\\r" alone, with that. `encoding`: UTF-8 where it is None.

    Raises DataError, naming file and line, for bytes that are not text in the encoding, NUL characters, endless lines
    and damaged archives. An empty file has no lines.
    """
    try:
        limit = unpacked_limit_bytes(path)
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            beginning = file.read(_LOOKS_AT_BYTES)
            file.seek(0)
            encoding = None if encoding is None or is_utf8(encoding) else encoding
            end = _line_end(beginning, encoding)
            if encoding is None and end == "\n":
                lines = _lines_of_utf8(file, path, longest_bytes)
            else:
                lines = _decoded_lines(file, path, encoding or "utf-8-sig", end, longest_bytes)
            for number, line in enumerate(lines, 1):
                if limit < math.inf and file.tell() > limit:
                    raise too_big_file(path)
                yield number, line if keep_ends else line.removesuffix(end).removesuffix("\r")
    except OSError as error:  # gzip.BadGzipFile is one
        raise unreadable_file(path, error) from error
    except (EOFError, zlib.error) as error:
        raise broken_file(path, f"it is no complete gzip file ({error})", "copy or download the file again") from error


def is_utf8(encoding: str) -> bool:
    """Whether this is a name of UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _line_end(beginning: bytes, encoding: str | None) -> str:
    """ "\\r" where lines end with that alone, as they did on old Macs; else "\\n"."""
    try:
        text = codecs.getincrementaldecoder(encoding or "latin1")("ignore").decode(beginning)
    except UnicodeError:  # UTF-16 without a mark
        text = ""
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _lines_of_utf8(file: BinaryIO, path: Path, longest_bytes: int) -> Iterator[str]:
    """Decoded line by line, so that what stands before a wrong byte has been given when it is found."""
    done = 0
    for number in count(1):
        data = file.readline(longest_bytes + 1)
        if not data:
            return
        if len(data) > longest_bytes:
            raise _endless(path, longest_bytes, number)
        line = decode_utf8(data, path, number, done)
        if "\0" in line:
            cause = f"byte {done + data.index(0) + 1:,} of the file is a NUL: it is no UTF-8 text"
            raise broken_file(path, cause, how_to_decode(path, data), number)
        done += len(data)
        yield line


def _decoded_lines(file: BinaryIO, path: Path, encoding: str, end: str, longest: int) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding=encoding, newline=end)
    try:
        for number in count(1):
            line = text.readline(longest + 1)
            if not line:
                return
            if len(line) > longest:
                raise _endless(path, longest, number)
            if number == 1:
                line = line.removeprefix("\ufeff")  # "utf-16-le" and the like leave the mark there
            if "\0" in line:
                raise broken_file(
                    path, f"there is a NUL in it: it is no {encoding} text", "give data.encoding the right one", number
                )
            yield line
    except UnicodeError:
        raise undecodable(path, encoding) from None


def undecodable(path: Path, encoding: str) -> DataError:
    """The error for a file that is not text in an encoding, with the place; found by decoding it again."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, data, name = 1, b"", "UTF-8" if is_utf8(encoding) else encoding
    try:
        for data in read_chunks(path):
            for place in range(0, len(data), 256):  # a small piece: what stands before the wrong byte is counted
                lines += _ends_in(decoder.decode(data[place : place + 256]))
        decoder.decode(b"", final=True)
        cause = f"it is not {name}"
    except UnicodeError as error:
        cause = f"it is not {name}: {error}"
        if isinstance(error, UnicodeDecodeError):
            lines += _ends_in(error.object[: error.start].decode(encoding, "ignore"))
            cause = f"byte 0x{error.object[error.start]:02X} is not {name}"
    return broken_file(path, cause, how_to_decode(path, data), lines)


def _ends_in(text: str) -> int:
    return text.count("\n") or text.count("\r")


def _endless(path: Path, longest: int, number: int) -> DataError:
    return broken_file(path, f"the line is over {longest >> 20} MiB", "give a file of one sample per line", number)
