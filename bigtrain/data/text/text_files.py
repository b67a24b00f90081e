"""The bytes of text files, plain or .gz: their content hash, and every way they can be wrong as a DataError.

What is in them: `data/text/documents.py` and `data/tables/rows.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bigtrain.data.cache import cache_root, fingerprint_of
from bigtrain.data.file_state import changed_while_read, facts_of
from bigtrain.data.text.encodings import likely_encoding
from bigtrain.errors import DataError

MAX_GZIP_RATIO = 100  # text packs 3 to 20 times; a bomb reaches 1029
_RATIO_COUNTS_FROM_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_ALWAYS_HASHED_BYTES = 64 << 20  # 0.1 s
_RECENT_SECONDS = 2.0


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
            raise unreadable_file(file, error) from error
        parts.append(
            [digest, ".jsonl" in file.suffixes[-2:], [name for name in (".gz", ".parquet") if file.suffix == name]]
        )
    return fingerprint_of(parts)


def _stat(path: Path) -> os.stat_result:
    try:
        stat = path.stat()
    except OSError as error:
        raise unreadable_file(path, error) from error
    if not path.is_file():  # a pipe or a device would block, or never end
        raise broken_file(path, "it is not an ordinary file", "give an ordinary file, a directory or a glob")
    return stat


def read_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked, in chunks. Raises DataError for a file that is damaged, or a bomb."""
    try:
        limit, done = unpacked_limit_bytes(path), 0
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                done += len(chunk)
                if done > limit:
                    raise too_big_file(path)
                yield chunk
    except OSError as error:  # gzip.BadGzipFile is one
        raise unreadable_file(path, error) from error
    except (EOFError, zlib.error) as error:
        raise broken_file(path, f"it is no complete gzip file ({error})", "copy or download the file again") from error


def unpacked_limit_bytes(path: Path) -> float:
    """What a file may hold, unpacked, before it is taken for a bomb. Raises OSError where there is no file."""
    if path.suffix != ".gz":
        return math.inf
    return max(path.stat().st_size * MAX_GZIP_RATIO, _RATIO_COUNTS_FROM_BYTES)


def decode_utf8(data: bytes, path: Path, line: int | None = None, start: int | None = None) -> str:
    """The text of a file's bytes, or of one line of them, which begins at byte `start` of the file, where that is
    known. A byte order mark is taken off. Raises DataError that says where the bytes are no UTF-8.
    """
    try:
        return data.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # the codec does not count the mark
        place = "" if start is None else f" (byte {start + at + 1:,} of the file)"
        cause = f"byte 0x{data[at]:02X} is not UTF-8{place}"
        raise broken_file(path, cause, how_to_decode(path, data), line or data.count(b"\n", 0, at) + 1) from None


def how_to_decode(path: Path, data: bytes) -> str:
    """What to do about a file that is not UTF-8. `data`: some of its bytes."""
    encoding = likely_encoding(path, data)
    return f"it looks like {encoding}: data.encoding={encoding} reads it so; or save it as UTF-8"


def json_object(line: str, path: Path, number: int, fix: str) -> dict[str, Any]:
    """The object that line `number` of a .jsonl file holds. Raises DataError, with the `fix`, for anything else."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise broken_file(path, f"it is not JSON ({error})", fix, number) from None
    if not isinstance(row, dict):
        raise broken_file(path, f"it is a {type(row).__name__}, not an object", fix, number)
    return row


@dataclass(frozen=True)
class FileState:
    """A file as it was when it was first looked at."""

    path: Path
    facts: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Raises DataError for what is no ordinary file, or can't be looked at."""
        return cls(path, facts_of(_stat(path)))

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return self.facts[2]

    def has_changed(self) -> bool:
        """Whether it was written to, replaced or removed since."""
        try:
            return facts_of(self.path.stat()) != self.facts
        except OSError:
            return True


def require_unchanged(states: Iterable[FileState]) -> None:
    """Raises DataError that names the first file that is not as it was when its content was hashed."""
    if changed := next((state for state in states if state.has_changed()), None):
        raise changed_while_read(changed.path, "it was written to, replaced or removed")


def broken_file(path: Path, cause: str, fix: str, line: int | None = None) -> DataError:
    """The error for a file (at a line) that can't be used as it is."""
    where = f"{path}:{line}" if line else f"{path}"
    return DataError.of("DATA-FILE", f"can't read {where}", cause=cause, fix=fix)


def unreadable_file(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not give."""
    return broken_file(
        path, error.strerror or str(error), "look at the path, its permissions, and whether it is complete"
    )


def too_big_file(path: Path) -> DataError:
    """The error for a file over `unpacked_limit_bytes`."""
    return broken_file(
        path,
        f"unpacked, it is over {MAX_GZIP_RATIO} times its packed size",
        "if you trust it, unpack it yourself, in parts of a sensible size",
    )
