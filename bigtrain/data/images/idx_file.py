"""Reads one file in MNIST's IDX format, plain or gzip, trusting nothing in it.

Format (yann.lecun.com/exdb/mnist): two zero bytes, a type (0x08: unsigned byte), the number of dimensions,
each dimension as a big-endian uint32, then the values. Which files make a data set: `data/images/idx.py`.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from bigtrain.data.file_state import unchanged
from bigtrain.data.paths import require_target
from bigtrain.errors import DataError

MAX_BYTES = 64 << 30
MAX_GZIP_RATIO = 1032  # the most that DEFLATE can pack; a header that claims more lies
_READ_BYTES = 1 << 20
_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """The values as uint8, in the shape of the header, which has one of `dimensions` dimensions.

    Magic and dimensions are checked against the size of the file before anything is allocated; then exactly
    the values must follow, then the end. Raises DataError, naming the file, for everything else.
    """
    try:
        require_target(path)
        if not path.is_file():
            raise _broken(path, "it is not an ordinary file")
        size = path.stat().st_size
        with unchanged(path):
            if path.suffix == ".gz":
                most = size * MAX_GZIP_RATIO
                with gzip.open(path) as file:
                    return _read(file, path, dimensions, lambda header, values: header + values <= most)
            with path.open("rb") as file:
                return _read(file, path, dimensions, lambda header, values: header + values == size)
    except OSError as error:  # gzip.BadGzipFile is one
        raise _broken(path, error.strerror or str(error)) from error
    except (EOFError, zlib.error) as error:
        raise _broken(path, f"it is no complete gzip file ({error})") from error


def _read(
    file: BufferedIOBase, path: Path, dimensions: tuple[int, ...], fits: Callable[[int, int], bool]
) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE or magic[3] not in dimensions:
        wanted = " or ".join(f"000008{number:02x}" for number in dimensions)
        raise _broken(path, f"it begins with {magic.hex() or 'nothing'}, where {wanted} should stand")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _broken(path, "it ends inside its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    count = math.prod(shape)
    if count == 0:
        raise _broken(path, f"its header says {_times(shape)}: it is empty")
    if count > MAX_BYTES or not fits(4 + len(header), count):
        raise _broken(path, f"its header says {_times(shape)} = {count:,} bytes, which is not what the file holds")
    values = np.empty(count, dtype=np.uint8)
    view, position = values.data, 0
    while position < count:
        read = file.readinto(view[position : position + _READ_BYTES])
        if not read:
            raise _broken(path, f"it ends after {position:,} of {count:,} values")
        position += read
    if file.read(1):
        raise _broken(path, f"more follows after its {count:,} values")
    return values.reshape(shape)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _broken(path: Path, cause: str) -> DataError:
    return DataError.of("DATA-IDX", f"can't read {path}", cause=cause, fix="copy or download the file again")
