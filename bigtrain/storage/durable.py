"""Files that survive a power cut: write, flush, fsync, rename, fsync the folder. Nothing here knows what is in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bigtrain.errors import MachineError
from bigtrain.tracking.jsonl import encode_number

PIECE_BYTES = 4 << 20  # of a file that is made while it is written; larger files are hashed in a thread
_PIECES_AHEAD = 2  # written, and not hashed yet


class Pieces(Protocol):
    """A file's content that is made while it is written. Its length is in bytes."""

    def __len__(self) -> int: ...

    def pieces(self) -> Iterator[memoryview]:
        """The content in order, about `PIECE_BYTES` at a time. A piece must stay as it is: it is hashed later."""
        ...


Content = bytes | Pieces


def write_new(path: Path, content: Content) -> str:
    """Writes a file that must not exist yet (nor be a link), mode 0600, durably. Returns its sha256."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if isinstance(content, bytes):
            digest.update(content)
            file.write(content)
        else:
            _write_pieces(file, content, digest.update)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_pieces(file: BinaryIO, content: Pieces, update: Callable[[memoryview], None]) -> None:
    """Writes, while a thread updates the hash: both release the interpreter's lock."""
    if len(content) <= PIECE_BYTES:  # starting a thread would take longer
        for piece in content.pieces():
            update(piece)
            file.write(piece)
        return
    with ThreadPoolExecutor(1, "sha256") as hashing:
        ahead: deque[Future[None]] = deque()
        for piece in content.pieces():
            ahead.append(hashing.submit(update, piece))
            file.write(piece)
            if len(ahead) > _PIECES_AHEAD:
                ahead.popleft().result()
        for future in ahead:
            future.result()


def replace(path: Path, content: str | bytes) -> None:
    """Puts a small file in place of the old one: a reader sees the old or the new, never half."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    write_new(temporary, content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
    sync_folder(path.parent)


def replace_json(path: Path, document: Any) -> None:
    """`replace` with strict JSON; numbers that are not finite become the words that metrics.jsonl uses for them."""
    replace(path, json.dumps(_encoded(document), indent=2, allow_nan=False) + "\n")


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return encode_number(value) if isinstance(value, float) else value


def sync_folder(folder: Path) -> None:
    """Makes creations and renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises MachineError when the disk under `folder` has less than `needed_bytes` left."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise no_space(folder, needed_bytes)


def no_space(folder: Path, needed_bytes: int) -> MachineError:
    """The error for a disk that is, or would be, full."""
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"
    except OSError:
        free = "unknown"
    return MachineError.of(
        "DISK-FULL",
        f"no space to write under {folder}",
        cause=f"about {needed_bytes / 1e6:.1f} MB needed, {free} free",
        fix="free some space, or choose another output_dir; earlier checkpoints are intact",
    )


@contextmanager
def disk_errors(folder: Path, needed_bytes: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turns an OSError of the operating system under `folder` into a MachineError with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise MachineError.of(
                "DISK-LIMIT",
                f"a file under {folder} is larger than this process may write",
                cause=error.strerror or str(error),
                fix="raise the limit (ulimit -f), or choose another output_dir",
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(folder, needed_bytes()) from error
        raise MachineError.of(
            "DISK-WRITE",
            f"can't write {error.filename or folder}",
            cause=error.strerror or str(error),
            fix="look at the permissions and the path, or choose another output_dir",
        ) from error
