"""The lines of a text file, one after the other, so that a file may be larger than memory; plain or .gz, UTF-8.

What a line holds is `data/text/tables.py`'s business, or that of a reader of aligned texts.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bigtrain.data.text.text_files import (
    broken_file,
    decode_utf8,
    too_big_file,
    unpacked_limit_bytes,
    unreadable_file,
)

MAX_LINE_BYTES = 16 << 20  # of one line, or of one field of a CSV: more is no text to train on


def read_lines(path: Path, keep_ends: bool = False, longest_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """Each line with its number, from 1 on. A line ends with "\\n" or "\\r\\n" and with nothing else.

    Raises DataError, naming file and line, for bytes that are not UTF-8, NUL characters, endless lines and damaged
    archives. An empty file has no lines.
    """
    try:
        limit, done = unpacked_limit_bytes(path), 0
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number in count(1):
                data = file.readline(longest_bytes + 1)
                if not data:
                    return
                if len(data) > longest_bytes:
                    cause = f"the line is over {longest_bytes >> 20} MiB"
                    raise broken_file(path, cause, "give a file of one sample per line", number)
                line = decode_utf8(data, path, number, done)
                if "\0" in line:
                    cause = f"byte {done + data.index(0) + 1:,} of the file is a NUL: it is no UTF-8 text"
                    raise broken_file(path, cause, "convert it: iconv -f utf-16 -t utf-8 OLD > NEW", number)
                done += len(data)
                if done > limit:
                    raise too_big_file(path)
                yield number, line if keep_ends else line.removesuffix("\n").removesuffix("\r")
    except OSError as error:  # gzip.BadGzipFile is one
        raise unreadable_file(path, error) from error
    except (EOFError, zlib.error) as error:
        raise broken_file(path, f"it is no complete gzip file ({error})", "copy or download the file again") from error
