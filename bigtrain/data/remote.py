"""Data named by a URL, such as s3://bucket/texts/*.txt: its files are fetched once into the cache, by `fsspec`.

fsspec is an optional package, and each protocol may need another one (s3fs for s3://). Credentials are found where
these look for them (environment, ~/.aws); none is logged.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bigtrain.config.redact import redact_text
from bigtrain.data.cache import cache_root, fingerprint_of
from bigtrain.data.file_state import changed_while_read
from bigtrain.data.paths import is_hidden
from bigtrain.errors import DataError
from bigtrain.storage.durable import sync_folder
from bigtrain.tracking.status_line import status_line

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:// is a drive
_CONNECTIONS = 8
# What file systems say of a file that changes with its content, by their own names.
_HASHES = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "generation")
_TIMES = ("Last-Modified", "LastModified", "last_modified", "mtime", "created")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@dataclass(frozen=True)
class _File:
    """A file on a server. `local`: where its copy belongs, which follows from what the server says of it."""

    place: str  # as the file system names it
    size_bytes: int | None
    local: Path


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return bool(_URL.match(path))


def fetch(url: str, key: str, wanted: Callable[[str], bool], cache_dir: str | None) -> list[Path]:
    """Copies of the files that a URL means: itself, what a pattern matches, or those under a folder whose names are
    `wanted`; in the order of their names. `key`: the setting.

    A copy is used again as long as the server says the same of the file (size, ETag, time). Where it can't be reached,
    copies from before are used, with a warning. Raises DataError where there are none, and without fsspec.
    """
    root = cache_root(cache_dir)
    if root is None:
        raise _unreadable(url, key, "this user has no home folder to keep a copy in", "set data.cache_dir")
    listing = root / "remote" / "listings" / fingerprint_of(url)
    try:
        import fsspec

        system, place = fsspec.core.url_to_fs(url)
        files = _listed(system, place, wanted, root / "remote")
        _fetch_missing(system, files)
    except ImportError as error:
        package = _PACKAGES.get(url.partition("://")[0].lower(), "")
        more = f" {package}" if package and package != "s3fs" else ""
        raise _unreadable(url, key, str(error), f"pip install 'bigtrain[remote]'{more}") from None
    except DataError:
        raise
    except Exception as error:  # file systems raise errors of their own libraries
        known = None if isinstance(error, FileNotFoundError) else _kept(listing)
        cause = f"{type(error).__name__}: {error}"
        if known is None:
            raise _unreadable(url, key, cause, "look at the URL, the credentials and the network") from None
        warnings.warn(
            f"{key}: {redact_text(url)} can't be reached ({redact_text(cause)[:200]}); the copies from before are used",
            stacklevel=2,
        )
        return known
    if not files:
        raise _unreadable(url, key, "no file with text is there", f"give {key} a file, a folder or a pattern")
    _keep(listing, files)
    return [file.local for file in files]


def _listed(system: Any, place: str, wanted: Callable[[str], bool], folder: Path) -> list[_File]:
    system.invalidate_cache()
    if any(sign in place for sign in "*["):
        places = [found for found in system.glob(place) if system.isfile(found)]
    elif system.info(place)["type"] == "directory":
        below = [found for found in system.find(place) if wanted(PurePosixPath(found).name)]
        places = [found for found in below if not any(map(is_hidden, found.removeprefix(place).split("/")))]
    else:
        places = [place]
    return [_file_of(system, found, folder) for found in sorted(places)]


def _file_of(system: Any, place: str, folder: Path) -> _File:
    facts = system.info(place)
    stamps = [f"{name}={facts[name]}" for name in (*_HASHES, *_TIMES) if facts.get(name) is not None]
    name = PurePosixPath(place.partition("?")[0]).name or "file"
    version = fingerprint_of(str(system.protocol), place, facts.get("size"), stamps)
    return _File(place, facts.get("size"), folder / version[:32] / name)


def _fetch_missing(system: Any, files: list[_File]) -> None:
    missing = [file for file in files if not file.local.is_file()]
    total, done = sum(file.size_bytes or 0 for file in missing), _sum()
    with status_line("Fetching data") as show, ThreadPoolExecutor(_CONNECTIONS, "fetch") as threads:
        report = lambda size_bytes: show(min(1.0, done(size_bytes) / max(1, total)))  # noqa: E731
        try:
            for _ in threads.map(lambda file: _fetch_one(system, file, report), missing):
                pass
        finally:
            threads.shutdown(cancel_futures=True)  # of one that failed, the others are not waited for


def _sum() -> Callable[[int], int]:
    """A sum that several threads add to."""
    total, lock = 0, threading.Lock()

    def add(amount: int) -> int:
        nonlocal total
        with lock:
            total += amount
            return total

    return add


def _fetch_one(system: Any, file: _File, report: Callable[[int], None]) -> None:
    """Whole or not at all: under another name, synced, and renamed once the server says the same of it as before."""
    from fsspec.callbacks import Callback

    class Told(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            report(inc)

    file.local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.local.parent, prefix=".tmp-")
    temporary = Path(name)
    try:
        system.get_file(file.place, name, callback=Told())
        os.fsync(descriptor)
        size_bytes = temporary.stat().st_size
        system.invalidate_cache()
        now = _file_of(system, file.place, file.local.parent.parent)
        if now.local != file.local or file.size_bytes not in (None, size_bytes):
            raise changed_while_read(Path(file.local.name), f"{size_bytes:,} bytes came of {now.size_bytes or 0:,}")
        temporary.replace(file.local)
        sync_folder(file.local.parent)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _keep(listing: Path, files: list[_File]) -> None:
    """What the URL means now, for a start without a network. Best effort."""
    try:
        listing.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listing.write_text(json.dumps([str(file.local) for file in files]), encoding="utf-8")
    except OSError:
        return


def _kept(listing: Path) -> list[Path] | None:
    try:
        paths = [Path(path) for path in json.loads(listing.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
    return paths if paths and all(path.is_file() for path in paths) else None


def _unreadable(url: str, key: str, cause: str, fix: str) -> DataError:
    return DataError.of("DATA-REMOTE", f"can't read {key}={redact_text(url)}", cause=redact_text(cause)[:500], fix=fix)
