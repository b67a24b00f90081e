"""Finds the images in a folder per class. Decoding one: `data/images/image_file.py`; division into splits:
`data/images/image_folder.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bigtrain.data.base import SPLITS
from bigtrain.data.images.image_file import SUFFIXES
from bigtrain.data.paths import dangling_link, is_hidden, list_files, require_target, warn_of_repeated
from bigtrain.data.text.text_files import unreadable_file
from bigtrain.errors import DataError

LAYOUT = "it has a folder per class, or train, val and test, each with such folders; val and test may be left out"
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")  # what file managers and archives leave; hidden files are others


@dataclass(frozen=True)
class Found:
    """An image file: its class and the split whose folder it lies in (train, where there are no such folders)."""

    path: Path
    label: str
    split: str


class Broken:
    """Files that can't be read as images: an error at the first, or, with `skip`, collected."""

    def __init__(self, skip: bool):
        self._skip = skip
        self.reasons: list[str] = []

    def add(self, error: DataError) -> None:
        """Takes one in, or raises it."""
        if not self._skip:
            mend = "data.skip_broken=true leaves out all that can't be read"
            raise DataError(
                *(replace(problem, fix=f"{problem.fix}; or {mend}") for problem in error.problems)
            ) from error
        self.reasons += [f"{problem.message}: {problem.cause}" for problem in error.problems]

    def tell(self, total: int) -> None:
        """Says how many there were beside `total` that could be read, if any."""
        if self.reasons:
            count = len(self.reasons)
            warnings.warn(
                f"{count:,} of {count + total:,} files are left out (data.skip_broken=true), for instance: "
                f"{'; '.join(self.reasons[:3])}.",
                stacklevel=2,
            )


def find_images(root: Path, broken: Broken) -> list[Found]:
    """Every image, by split, class and name. Raises DataError for what does not belong there."""
    tops = _tops(root)
    files: list[Found] = []
    repeated: list[Path] = []
    for split, top in tops.items():
        for folder in _class_folders(top):
            listing = list_files(folder, skips=_is_clutter)
            repeated += listing.repeated
            for link in listing.dangling:
                broken.add(dangling_link(link))
            paths = list(_images(listing.files, broken))
            if not paths:
                raise _misplaced(folder, "it is the folder of a class, and holds no image", "fill it, or take it out")
            files += [Found(path, folder.name, split) for path in paths]
    warn_of_repeated(root, repeated)
    known = {file.label for file in files if file.split == "train"}
    for file in files:
        if file.label not in known:
            raise _misplaced(
                tops[file.split] / file.label,
                f"it is a class that {tops['train']} does not have",
                "give it training images, or take it out",
            )
    return files


def file_facts(root: Path, files: list[Found]) -> list[list[Any]]:
    """Name, size and time of each file, which stand for its content. Raises DataError for one that is gone."""
    facts, above = [], "" if str(root) == "." else f"{str(root).rstrip('/')}/"
    for file in files:
        try:
            status = file.path.stat()
        except OSError as error:
            raise unreadable_file(file.path, error) from error
        # Path.relative_to takes as long as the rest of a start with a million files.
        facts.append([str(file.path).removeprefix(above), status.st_size, status.st_mtime_ns])
    return facts


def class_names(root: Path, files: list[Found]) -> list[str]:
    """The classes, sorted. Raises DataError where there are not two."""
    names = sorted({file.label for file in files if file.split == "train"})
    if len(names) < 2:
        inner = [folder.name for name in names if (root / name).is_dir() for folder in _folders(root / name)]
        deeper = f"; if {', '.join(inner[:3])} are the classes: data.path={root / names[0]}" if len(inner) > 1 else ""
        raise DataError.of(
            "DATA-CLASSES",
            f"{root} has {f'one class, {names[0]}' if names else 'no class'}; there must be two at least",
            cause="each folder in it is a class, and so is each folder in train, where there is one",
            fix=f"put the images of each class into a folder of its own{deeper}",
        )
    return names


def _tops(root: Path) -> dict[str, Path]:
    """The folder of each split; the root itself is train's where no split has one."""
    folders = _folders(root)
    tops: dict[str, Path] = {}
    for split in SPLITS:
        named = [folder for folder in folders if _is_split(folder, split, beside_train="train" in tops)]
        if len(named) > 1:
            raise _misplaced(named[1], f"{named[0].name} is the folder of {split} already", "take one of them out")
        if named:
            tops[split] = named[0]
    if not tops:
        return {"train": root}
    others = [folder for folder in folders if folder not in tops.values()]
    if "train" not in tops or others:
        first = next(iter(tops.values()))
        odd = others[0] if others else first
        raise _misplaced(odd, f"beside it is {first.name}" if others else "there is no train beside it", LAYOUT)
    if "test" in tops and _holds_images(tops["test"]):
        warnings.warn(f"{tops['test']} is left out: its images have no classes to be measured by.", stacklevel=2)
        del tops["test"]
    return tops


def _is_split(folder: Path, split: str, beside_train: bool) -> bool:
    """Whether it is the folder of a split; by another name than the split's own (a class may be called valid, like its
    counterpart invalid) only if the rest looks so: train holds folders, val and test lie beside train.
    """
    if folder.name == split:
        return True
    is_named = folder.name.lower() in _NAMES[split]
    return is_named and (beside_train if split != "train" else not _holds_images(folder))


def _holds_images(folder: Path) -> bool:
    return any(_is_image(entry) for entry in _entries(folder))


def _class_folders(top: Path) -> list[Path]:
    for entry in _entries(top):
        if _is_image(entry):
            raise _misplaced(entry, "it is in no class", "put it into the folder of its class")
    return _folders(top)


def _folders(top: Path) -> list[Path]:
    """The folders in a folder. Raises DataError for a link that leads nowhere: it may have been to one."""
    entries = _entries(top)
    for entry in entries:
        require_target(entry)
    return [entry for entry in entries if entry.is_dir()]


def _images(files: list[Path], broken: Broken) -> Iterator[Path]:
    for path in files:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path
        else:
            broken.add(
                _misplaced(path, "it is no image", f"take it out; those that are read end in {', '.join(SUFFIXES)}")
            )


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted. Raises DataError where that can't be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if not _is_clutter(entry.name))
    except OSError as error:
        raise unreadable_file(folder, error) from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _is_clutter(name: str) -> bool:
    return is_hidden(name) or name in _CLUTTER


def _misplaced(path: Path, cause: str, fix: str) -> DataError:
    return DataError.of("DATA-IMAGE", f"{path} does not belong there", cause=cause, fix=fix)
