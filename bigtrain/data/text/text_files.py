"""One text file → its documents, with every way a file can be wrong as a DataError; and the content hash of
files.

Formats by suffix: `.jsonl` (a document per line, under `text_key`), anything else plain UTF-8 text; each also
as `.gz`. Line ends become "\\n", as Python's text mode does. Which files are read is `data/text/text_corpus.py`'s
business.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

from bigtrain.data.cache import cache_root, fingerprint_of
from bigtrain.errors import DataError

SUFFIXES = (".txt", ".txt.gz", ".md", ".md.gz", ".jsonl", ".jsonl.gz")
MAX_TEXT_BYTES = 32 << 30  # of one file, unpacked; more does not fit into memory as text anyway
MAX_GZIP_RATIO = 100  # text packs 3 to 20 times; a bomb reaches 1029
_RATIO_COUNTS_FROM_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_ALWAYS_HASHED_BYTES = 64 << 20  # 0.1 s
_RECENT_SECONDS = 2.0


def read_documents(path: Path, text_key: str, separator: str) -> list[str]:
    """The documents of one file, without empty and blank ones. Raises DataError naming file (and line)."""
    data = _read_bytes(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        documents = [
            _document_of(line, path, n, text_key) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()
        ]
    else:
        text = _decode(data, path).replace("\r\n", "\n").replace("\r", "\n")
        documents = [text] if not separator else _split_at_lines(text, separator)
    return [document for document in documents if document and not document.isspace()]


def content_hash(files: list[Path], cache_dir: str | None) -> str:
    """A hash of what the files hold and in which format, not of where they lie.

    Up to 64 MB the bytes are hashed each time (0.1 s). Beyond, the hash is kept in the cache beside the
    files' size, inode, time of modification and of change (which no ordinary tool can set back), and taken
    from there as long as these stay; not for files changed in the last two seconds, when a clock tick could
    hide a second change.
    """
    started = time.time()
    stats = [_stat(file) for file in files]
    if sum(stat.st_size for stat in stats) <= _ALWAYS_HASHED_BYTES:
        return _hash_contents(files)
    identity = [
        [os.path.realpath(file), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        for file, stat in zip(files, stats, strict=True)
    ]
    root = cache_root(cache_dir)
    if root is None:
        return _hash_contents(files)
    record = root / "hashes" / fingerprint_of(identity)
    try:
        known = record.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    except (OSError, ValueError):
        pass
    found = _hash_contents(files)
    if max(stat.st_ctime for stat in stats) < started - _RECENT_SECONDS:
        _remember(record, found)
    return found


def _remember(record: Path, content: str) -> None:
    """Best effort: without it the next start is slower, nothing else."""
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = record.with_name(f".tmp-{os.getpid()}-{record.name}")
        temporary.write_text(content, encoding="ascii")
        temporary.replace(record)
    except OSError:
        return


def _hash_contents(files: list[Path]) -> str:
    parts = []
    for file in files:
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(file, error) from error
        parts.append([digest, ".jsonl" in file.suffixes[-2:], file.suffix == ".gz"])
    return fingerprint_of(parts)


def _stat(path: Path) -> os.stat_result:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not path.is_file():  # a pipe or a device would block, or never end
        raise _broken(path, "it is not an ordinary file", "give an ordinary file, a directory or a glob")
    return stat


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise _too_big(path)
            return path.read_bytes()
        return _unpack(path)
    except OSError as error:  # gzip.BadGzipFile is one
        raise _unreadable(path, error) from error
    except (EOFError, zlib.error) as error:
        raise _broken(path, f"it is no complete gzip file ({error})", "copy or download the file again") from error


def _unpack(path: Path) -> bytes:
    limit = min(MAX_TEXT_BYTES, max(path.stat().st_size * MAX_GZIP_RATIO, _RATIO_COUNTS_FROM_BYTES))
    pieces, size = [], 0
    with gzip.open(path) as file:
        while piece := file.read(_READ_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_big(path)
    return b"".join(pieces)


def _decode(data: bytes, path: Path, line: int | None = None) -> str:
    try:
        return data.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        line = line or data.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise _broken(
            path,
            f"byte 0x{data[error.start]:02X} is not UTF-8",
            f"convert it, for instance: iconv -f {encoding} -t utf-8 OLD > NEW",
            line,
        ) from None


def _document_of(line: bytes, path: Path, number: int, text_key: str) -> str:
    fix = f'each line is one object, such as {{"{text_key}": "the text"}}'
    try:
        row: Any = json.loads(_decode(line, path, number))
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"it is not JSON ({error})", fix, number) from None
    if not isinstance(row, dict):
        raise _broken(path, f"it is a {type(row).__name__}, not an object", fix, number)
    if text_key not in row:
        keys = ", ".join(list(row)[:10]) or "none"
        raise _broken(path, f"it has no key {text_key!r}; its keys: {keys}", "name the key: data.text_key=...", number)
    text = row[text_key]
    if not isinstance(text, str):
        raise _broken(path, f"its {text_key!r} is a {type(text).__name__}, not a text", fix, number)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _broken(path, f"its {text_key!r} has a lone surrogate, so it is not Unicode", fix, number) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_at_lines(text: str, separator: str) -> list[str]:
    pieces: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == separator.strip():
            pieces.append([])
        else:
            pieces[-1].append(line)
    return ["\n".join(lines) for lines in pieces]


def _broken(path: Path, cause: str, fix: str, line: int | None = None) -> DataError:
    where = f"{path}:{line}" if line else f"{path}"
    return DataError.of("DATA-FILE", f"can't read {where}", cause=cause, fix=fix)


def _unreadable(path: Path, error: OSError) -> DataError:
    return _broken(path, error.strerror or str(error), "look at the path, its permissions, and whether it is complete")


def _too_big(path: Path) -> DataError:
    return _broken(
        path,
        f"unpacked, it is over {MAX_TEXT_BYTES >> 30} GiB, or over {MAX_GZIP_RATIO} times its packed size",
        "if you trust it, unpack it yourself, in parts of a sensible size",
    )
