"""What a path in the settings means, for data of every kind: ~ and links, and the files under a folder.

What is in the files, and which names are wanted, the caller knows.
"""

from __future__ import annotations

import heapq
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bigtrain.data.text.text_files import unreadable_file
from bigtrain.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The files under a folder, and what there adds none; all sorted."""

    files: list[Path]  # whatever is no folder, so a pipe or a device too
    dangling: list[Path]  # links that point nowhere, or in a circle
    repeated: list[Path]  # other names (most are links) of files and folders that are listed already


def is_hidden(name: str) -> bool:
    """Whether a name begins with a dot."""
    return name.startswith(".")


def list_files(
    folder: Path, wants: Callable[[str], bool] = lambda name: True, skips: Callable[[str], bool] = is_hidden
) -> Listing:
    """Every file under `folder` whose name is wanted, once, in the order of `sorted(paths)`; links are followed.

    `skips`: the names of files and folders that are passed over as if they were not there. Files, and folders, are one
    if their device and inode are: the name that no link leads to is listed, of several the first. A link to a folder
    above it is not followed. Raises DataError for a folder that can't be read.
    """
    walk = _Walk(wants, skips)
    walk.add_tree(folder)
    while walk.links:
        walk.follow(heapq.heappop(walk.links))
    return Listing(sorted(walk.files.values()), sorted(walk.dangling), sorted(walk.repeated))


def as_path(path: str) -> Path:
    """The path of a setting, which no shell has expanded."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of an unknown user: reported as something that is not there
        return Path(path)


def require_target(path: Path) -> None:
    """Raises DataError for a link that points nowhere."""
    if path.is_symlink() and not path.exists():
        raise dangling_link(path)


def dangling_link(path: Path) -> DataError:
    """The error for a link that points nowhere."""
    return DataError.of(
        "DATA-FILE",
        f"can't read {path}",
        cause=f"it is a link to {os.readlink(path)}, which leads nowhere",  # noqa: PTH115 Path.readlink changes the text
        fix="mend the link, or take it out",
    )


def warn_of_repeated(folder: Path, repeated: list[Path]) -> None:
    """Says that some names were passed over, where there are any."""
    if repeated:
        names = "a name leads" if len(repeated) == 1 else f"{len(repeated):,} names lead"
        warnings.warn(
            f"{folder}: {names} to what is read under another name already ({repeated[0]}); each file counts once.",
            stacklevel=2,
        )


class _Walk:
    """What has been found so far. Links wait in a heap until all that is reached without them has been listed."""

    def __init__(self, wants: Callable[[str], bool], skips: Callable[[str], bool]):
        self.files: dict[tuple[int, int], Path] = {}
        self.links: list[Path] = []
        self.dangling: list[Path] = []
        self.repeated: list[Path] = []
        self._folders: set[tuple[int, int]] = set()
        self._wants, self._skips = wants, skips

    def add_tree(self, top: Path) -> None:
        """What lies below `top` and is reached without a link."""
        found: list[tuple[Path, os.stat_result]] = []
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(folder.stat())
                if identity in self._folders:  # a part of what a link leads to, listed before as another link's target
                    continue
                self._folders.add(identity)
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if self._skips(entry.name):
                            continue
                        if entry.is_symlink():
                            heapq.heappush(self.links, folder / entry.name)
                        elif entry.is_dir():
                            waiting.append(folder / entry.name)
                        elif self._wants(entry.name):
                            found.append((folder / entry.name, entry.stat(follow_symlinks=False)))
            except OSError as error:
                raise unreadable_file(Path(error.filename or folder), error) from error
        for path, status in sorted(found, key=lambda pair: pair[0]):
            self._add_file(path, status)

    def follow(self, link: Path) -> None:
        """What a link leads to."""
        try:
            status = link.stat()
        except PermissionError as error:
            raise unreadable_file(link, error) from error
        except OSError:
            self.dangling.append(link)
            return
        if not stat.S_ISDIR(status.st_mode):
            if self._wants(link.name):
                self._add_file(link, status)
        elif _identity(status) in self._folders or link.parent.resolve().is_relative_to(link.resolve()):
            self.repeated.append(link)  # listed already, or a circle: the folder that it leads to holds the link itself
        else:
            self.add_tree(link)

    def _add_file(self, path: Path, status: os.stat_result) -> None:
        if self.files.setdefault(_identity(status), path) is not path:
            self.repeated.append(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
