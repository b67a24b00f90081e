"""Images in a folder per class: finding the files, splitting them, and the data module. Decoding one is
`data/images/image_file.py`'s business.

Splits that have no folder of their own are drawn out of train by a hash of each file's bytes. So a file stays in its
split when others come or go, and copies of one image are never in two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigtrain.data.base import SPLITS, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.config import ImageFolderConfig
from bigtrain.data.images.image_file import SUFFIXES, read_image
from bigtrain.data.images.samples import ImageSamples, as_path, normalization, split_of
from bigtrain.data.progress import status_line
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_VERSION = 1  # of the decoding; part of the cache key
_BLOCK = 256  # images decoded between two reports of progress
_LAYOUT = "it has a folder per class, or train, val and test, each with such folders; val and test may be left out"
_CLUTTER = ("Thumbs.db", "desktop.ini")  # what a file manager leaves behind; hidden files are others


@dataclass(frozen=True)
class Found:
    """An image file: its class and the split whose folder it lies in (train, where there are no such folders)."""

    path: Path
    label: str
    split: str


class ImageFolder:
    """Data module `image_folder`; see `ImageFolderConfig`.

    Raises DataError for a folder without classes, a class without images, and files that are no images or of another
    size.
    """

    tokenizer: Tokenizer | None = None

    def __init__(self, config: ImageFolderConfig, tokenizer: Tokenizer | None = None):
        root = _root(config)
        files = find_images(root)
        names = _class_names(root, files)
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[file.label] for file in files])
        prepared = _prepared(root, config, files)
        images = prepared.arrays["images"]
        chosen = split_images(config, files, prepared.arrays["hashes"])
        _require_every_class(names, labels[chosen["train"]])
        self._samples = {split: ImageSamples(images, labels, ids) for split, ids in chosen.items() if len(ids)}
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of(prepared.meta["fingerprint"], names, labels, *chosen.values()),
            sizes={split: len(samples) for split, samples in self._samples.items()},
            input_shape=tuple(map(int, images.shape[1:])),
            num_classes=len(names),
            labels=tuple(names),
            normalization=normalization(self._samples["train"]),
        )
        self.augment = augmentation_for(config.augment, self.spec)

    def dataset(self, split: str) -> ImageSamples:
        """See `data/base.py`."""
        return split_of(self._samples, split)


def find_images(root: Path) -> list[Found]:
    """Every image, by split, class and name. Raises DataError for what does not belong there."""
    tops = _tops(root)
    files = [file for split, top in tops.items() for file in _of_split(top, split)]
    known = {file.label for file in files if file.split == "train"}
    for file in files:
        if file.label not in known:
            raise _misplaced(
                tops[file.split] / file.label,
                f"it is a class that {tops['train']} does not have",
                "give it training images, or take it out",
            )
    return files


def _tops(root: Path) -> dict[str, Path]:
    """The folder of each split; the root itself is train's where no split has one."""
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not _is_clutter(entry.name)}
    splits = [split for split in SPLITS if split in folders]
    if not splits:
        return {"train": root}
    others = sorted(folders - set(splits))
    if "train" not in splits or others:
        odd = root / (others or splits)[0]
        raise _misplaced(odd, f"beside it is {splits[0]}" if others else "there is no train beside it", _LAYOUT)
    return {split: root / split for split in splits}


def split_images(config: ImageFolderConfig, files: list[Found], hashes: np.ndarray) -> dict[str, np.ndarray]:
    """Ids of each split: by folder, and by hash where a split has none."""
    given = np.array([file.split for file in files])
    ids = {split: np.flatnonzero(given == split) for split in SPLITS}
    for split, fraction, part in (("test", config.test_fraction, 0), ("val", config.val_fraction, 1)):
        if not len(ids[split]):
            bits = (hashes[ids["train"]] >> np.uint64(32 * part)) & np.uint64(0xFFFFFFFF)  # others for each split
            drawn = bits < fraction * 2**32
            ids[split], ids["train"] = ids["train"][drawn], ids["train"][~drawn]
    return ids


def _root(config: ImageFolderConfig) -> Path:
    root = None if config.path is None else as_path(config.path)
    if root is None or not root.is_dir():
        cause = "data.path is not given" if root is None else f"{root} is not a directory"
        raise DataError.of(
            "DATA-MISSING", "the images are not there", cause=cause, fix=f"data.path=DIRECTORY; {_LAYOUT}"
        )
    return root


def _of_split(top: Path, split: str) -> Iterator[Found]:
    """The images of the classes below a folder."""
    entries = sorted(entry for entry in top.iterdir() if not _is_clutter(entry.name))
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir():
            raise _misplaced(entry, "it is in no class", "put it into the folder of its class")
    for folder in (entry for entry in entries if entry.is_dir()):
        paths = sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if not _is_clutter(name))
        for path in paths:
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                raise _misplaced(path, f"it is no image; those end in {', '.join(SUFFIXES)}", "take it out")
            yield Found(path, folder.name, split)
        if not paths:
            raise _misplaced(folder, "it is the folder of a class, and holds no image", "fill it, or take it out")


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER


def _class_names(root: Path, files: list[Found]) -> list[str]:
    names = sorted({file.label for file in files if file.split == "train"})
    if len(names) < 2:
        raise DataError.of(
            "DATA-CLASSES",
            f"{root} has {f'one class, {names[0]}' if names else 'no class'}; there must be two at least",
            cause="each folder in it is a class, and so is each folder in train, where there is one",
            fix="put the images of each class into a folder of its own",
        )
    return names


def _require_every_class(names: list[str], labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(names))
    if not counts.all():
        raise DataError.of(
            "DATA-CLASSES",
            f"the class {names[int(counts.argmin())]} has so few images that none is left to train on",
            cause="those for validation and test are drawn by a hash of each file",
            fix="add images, lower data.val_fraction or data.test_fraction, or make the splits yourself: train/ test/",
        )


def _prepared(root: Path, config: ImageFolderConfig, files: list[Found]) -> Prepared:
    """`images` (N, C, H, W) and `hashes` (N,), from the cache while no file has changed."""
    facts = []
    for file in files:
        status = file.path.stat()
        facts.append([str(file.path.relative_to(root)), status.st_size, status.st_mtime_ns])
    key = fingerprint_of("image_folder", _VERSION, facts, config.size, config.channels)
    return load_or_build(cache_root(config.cache_dir), "image_folder", key, lambda: _decoded(config, files))


def _decoded(config: ImageFolderConfig, files: list[Found]) -> Prepared:
    def read(file: Found) -> tuple[np.ndarray, int]:
        return read_image(file.path, config.size, config.channels)

    shape = read(files[0])[0].shape
    images, hashes = np.empty((len(files), *shape), dtype=np.uint8), np.empty(len(files), dtype=np.uint64)
    with status_line("Decoding images") as report, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            for index, (file, (image, digest)) in enumerate(zip(block, pool.map(read, block), strict=True), start):
                if image.shape != shape:
                    raise DataError.of(
                        "DATA-IMAGE",
                        f"{file.path} has {_pixels(image.shape)} pixels, {files[0].path} has {_pixels(shape)}",
                        cause="images must be of one size",
                        fix=f"data.size={min(shape[1:])} scales and cuts them all to squares of that size",
                    )
                images[index], hashes[index] = image, digest
            report((start + len(block)) / len(files))
    return Prepared({"fingerprint": fingerprint_of(images, hashes)}, {"images": images, "hashes": hashes})


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"


def _misplaced(path: Path, cause: str, fix: str) -> DataError:
    return DataError.of("DATA-IMAGE", f"{path} does not belong there", cause=cause, fix=fix)
