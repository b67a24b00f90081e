"""Finds and reads the files of CIFAR's binary version, in a directory or in the archive as it is downloaded.

Each file has a known size, and nothing else is read: of an archive only ordinary files of the names that are looked
for, as a stream, under a cap on its unpacked bytes. The version with Python pickles is refused: they can run code.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bigtrain.data.file_state import unchanged
from bigtrain.data.paths import require_target
from bigtrain.errors import DataError

_NAMES_LIMIT_BYTES = 64 << 10  # of a file of class names
_ARCHIVE_LIMIT_BYTES = 1 << 30  # unpacked; CIFAR has 0.2 GB
_BLOCK_BYTES = 1 << 20
_PICKLED = {"data_batch_1", "test_batch", "train", "test", "meta", "batches.meta"}


def read_files(path: Path, folder: str, sizes: Mapping[str, int], names_files: Iterable[str]) -> dict[str, bytes]:
    """The bytes of each file by its name: all of `sizes`, with exactly so many bytes, and what there is of the others.

    `path`: the directory, or one above it that has it as `folder`, or the .tar.gz with it. Raises DataError.
    """
    limits = dict.fromkeys(names_files, _NAMES_LIMIT_BYTES) | dict(sizes)
    try:
        found, names = _from_archive(path, limits) if path.is_file() else _from_folder(path, folder, limits)
    except OSError as error:  # gzip.BadGzipFile is one
        raise broken(path, error.strerror or str(error)) from error
    missing = [name for name in sizes if name not in found]
    if missing and not any(name.endswith(".bin") for name in names) and names & _PICKLED:
        raise DataError.of(
            "DATA-CIFAR",
            f"{path} is the version of CIFAR for Python",
            cause="its files are pickles, which can run code when they are read; bigtrain reads none",
            fix="download the binary version from cs.toronto.edu/~kriz/cifar.html",
        )
    if missing:
        raise DataError.of(
            "DATA-MISSING",
            "the image files are not there",
            cause=f"{path} lacks {', '.join(missing)}" if path.exists() else f"{path} does not exist",
            fix="download the binary version from cs.toronto.edu/~kriz/cifar.html, and give it, packed or unpacked, as "
            "data.path=PATH",
        )
    for name, size in sizes.items():
        if len(found[name]) != size:
            raise broken(path, f"{name} ends after {len(found[name]):,} of {size:,} bytes")
    return found


def broken(path: Path, cause: str) -> DataError:
    """What is wrong with a file of the data set, as an error."""
    return DataError.of("DATA-CIFAR", f"can't read {path}", cause=cause, fix="copy or download the files again")


def _from_folder(path: Path, folder: str, limits: Mapping[str, int]) -> tuple[dict[str, bytes], set[str]]:
    """The files, and the names of all that is there."""
    inside = path / folder if (path / folder).is_dir() else path
    names = {entry.name for entry in inside.iterdir()} if inside.is_dir() else set()
    found = {}
    for name in limits:
        if name in names:
            require_target(inside / name)
        if name in names and (inside / name).is_file():
            with unchanged(inside / name), (inside / name).open("rb") as file:
                found[name] = _read(inside, name, file, limits[name])
    return found, names


def _from_archive(path: Path, limits: Mapping[str, int]) -> tuple[dict[str, bytes], set[str]]:
    found: dict[str, bytes] = {}
    names = set()
    try:
        with unchanged(path), gzip.open(path) as unpacked:
            stream: Any = _Capped(unpacked)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    names.add(name)
                    if name in limits and member.isfile():
                        if name in found:
                            raise broken(path, f"it has {name} twice")
                        found[name] = _read(path, name, archive.extractfile(member), limits[name])
            while stream.read(_BLOCK_BYTES):
                pass  # to the end: only there gzip compares its checksum
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise broken(path, f"it is no complete .tar.gz ({error})") from error
    return found, names


def _read(path: Path, name: str, file: Any, limit: int) -> bytes:
    content: bytes = file.read(limit)
    if file.read(1):
        raise broken(path, f"{name} goes on after the {limit:,} bytes that belong there")
    return content


class _Capped:
    """A stream that ends in an error after more bytes than any CIFAR archive has."""

    def __init__(self, stream: gzip.GzipFile):
        self._stream = stream
        self._left = _ARCHIVE_LIMIT_BYTES

    def read(self, size: int) -> bytes:
        """As `io.RawIOBase.read`."""
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {_ARCHIVE_LIMIT_BYTES:,} bytes")
        return content
