"""Images in a folder per class: the data module, its cache and its splits. Finding the files:
`data/images/class_folders.py`; decoding one: `data/images/image_file.py`; decoding them when they are read:
`data/images/decoded_on_read.py`.

Splits that have no folder of their own are drawn out of train by a hash of each file's bytes, of each class the same
part. So hardly a file changes its split when others come or go, and copies of one image are never in two.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bigtrain.data.base import SPLITS, DataModule, Dataset, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.file_state import changed_while_read, unchanged
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.class_folders import LAYOUT, Broken, Found, class_names, file_facts, find_images
from bigtrain.data.images.config import ImageFolderConfig
from bigtrain.data.images.decoded_on_read import (
    FileSamples,
    FolderFiles,
    decodes_on_read,
    file_normalization,
    index_files,
)
from bigtrain.data.images.image_file import read_image, require_same_size
from bigtrain.data.images.samples import ImageSamples, normalization, split_of
from bigtrain.data.paths import as_path, require_target
from bigtrain.data.splits import split_by_class, warn_of_missing_classes
from bigtrain.data.text.text_files import unreadable_file
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError, Problem
from bigtrain.tracking.status_line import status_line

_VERSION = 1  # of the decoding; part of the cache key
_BLOCK = 256  # images decoded between two reports of progress


class ImageFolder(DataModule):
    """Data module `image_folder`; see `ImageFolderConfig`.

    Raises DataError for a folder without classes, a class without images, files that are no images or of another size,
    and files that change while they are read. Warns of a split without samples of a class.
    """

    def __init__(self, config: ImageFolderConfig, tokenizer: Tokenizer | None = None):
        root = _root(config)
        broken = Broken(config.skip_broken)
        files = find_images(root, broken)
        names = class_names(root, files)
        facts = file_facts(root, files)
        on_read = decodes_on_read(config, files, facts)
        prepared = (index_files if on_read else _prepared)(root, config, files, facts)
        for index, problem in reversed(prepared.meta.get("broken", [])):
            broken.add(DataError(Problem(**problem)))
            del files[index], facts[index]
        broken.tell(len(files))
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[file.label] for file in files])
        chosen = split_images(config, files, labels, prepared.arrays["hashes"])
        _require_every_class(names, labels[chosen["train"]])
        of_splits = {split: labels[ids] for split, ids in chosen.items()}
        _warn_of_missing_classes(config, names, of_splits, {file.split for file in files})
        fingerprint = fingerprint_of(prepared.meta["fingerprint"], names, labels, *chosen.values())
        self._samples: dict[str, Dataset]
        if on_read:
            folder = FolderFiles(root, config, facts, prepared)
            read = {split: FileSamples(split, folder, labels, ids) for split, ids in chosen.items() if len(ids)}
            self._samples, shape = {**read}, folder.shape
            mean_and_std = file_normalization(config, read["train"], fingerprint)
        else:
            images = prepared.arrays["images"]
            decoded = {split: ImageSamples(images, labels, ids) for split, ids in chosen.items() if len(ids)}
            self._samples, shape = {**decoded}, images.shape[1:]
            mean_and_std = normalization(decoded["train"])
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint,
            sizes={split: len(ids) for split, ids in chosen.items() if len(ids)},
            input_shape=tuple(map(int, shape)),
            num_classes=len(names),
            labels=tuple(names),
            normalization=mean_and_std,
        )
        self.augment = augmentation_for(config.augment, self.spec)

    def dataset(self, split: str) -> Dataset:
        return split_of(self._samples, split)


def split_images(
    config: ImageFolderConfig, files: list[Found], labels: np.ndarray, hashes: np.ndarray
) -> dict[str, np.ndarray]:
    """Ids of each split: by folder, and drawn out of train where a split has none."""
    given = np.array([file.split for file in files])
    ids = {split: np.flatnonzero(given == split) for split in SPLITS}
    fractions = {
        split: fraction
        for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction))
        if not len(ids[split])
    }
    if config.stratify:
        train = ids["train"]
        drawn = split_by_class(labels[train], hashes[train], fractions.get("val", 0.0), fractions.get("test", 0.0))
        return ids | {split: train[drawn[split]] for split in ("train", *fractions)}
    for split, fraction in fractions.items():
        bits = hashes[ids["train"]] >> np.uint64(0 if split == "test" else 32)  # others for each split
        chosen = (bits & np.uint64(0xFFFFFFFF)) < fraction * 2**32
        ids[split], ids["train"] = ids["train"][chosen], ids["train"][~chosen]
    return ids


def _root(config: ImageFolderConfig) -> Path:
    root = None if config.path is None else as_path(config.path)
    try:
        if root is not None and root.is_dir():
            return root
        if root is not None:
            require_target(root)
    except OSError as error:
        raise unreadable_file(Path(root or ""), error) from error
    cause = "data.path is not given" if root is None else f"{root} is not a directory"
    raise DataError.of("DATA-MISSING", "the images are not there", cause=cause, fix=f"data.path=DIRECTORY; {LAYOUT}")


def _require_every_class(names: list[str], labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(names))
    if not counts.all():
        raise DataError.of(
            "DATA-CLASSES",
            f"the class {names[int(counts.argmin())]} has so few images that none is left to train on",
            cause="those for validation and test are drawn by a hash of each file, and broken ones may be left out",
            fix="add images, data.stratify=true, or make the splits yourself: train/ test/",
        )


def _warn_of_missing_classes(
    config: ImageFolderConfig, names: list[str], labels: dict[str, np.ndarray], given: set[str]
) -> None:
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    asked = {split: of_split for split, of_split in labels.items() if len(of_split) or fractions.get(split)}
    drawn = (
        "add images, or go without: data.{0}_fraction=0" if config.stratify else "draw it by class: data.stratify=true"
    )
    fixes = {split: "add images to its folder" if split in given else drawn.format(split) for split in fractions}
    warn_of_missing_classes(names, asked, fixes)


def _prepared(root: Path, config: ImageFolderConfig, files: list[Found], facts: list[list[Any]]) -> Prepared:
    """`images` (N, C, H, W) and `hashes` (N,) of the files that can be read, from the cache while none has changed.

    meta: "broken", of each other file its index and what is wrong with it.
    """
    skipping = ["skip_broken"] if config.skip_broken else []
    key = fingerprint_of("image_folder", _VERSION, facts, config.size, config.channels, *skipping)

    def build() -> Prepared:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of EXIF and the like: it does not say in which file
            decoded = _decoded(config, files)
        changed = [now[0] for before, now in zip(facts, file_facts(root, files), strict=True) if before != now]
        if changed:
            cause = f"{len(changed):,} of {len(files):,} files were written to, or replaced"
            raise changed_while_read(root / changed[0], cause)
        return decoded

    return load_or_build(cache_root(config.cache_dir), "image_folder", key, build)


def _decoded(config: ImageFolderConfig, files: list[Found]) -> Prepared:
    def read(file: Found) -> tuple[np.ndarray, int] | DataError:
        try:
            with unchanged(file.path):
                return read_image(file.path, config.size, config.channels)
        except DataError as error:
            return error
        except OSError as error:
            return unreadable_file(file.path, error)

    images, hashes = np.empty((0, 0, 0, 0), dtype=np.uint8), np.empty(len(files), dtype=np.uint64)
    broken: list[tuple[int, dict[str, Any]]] = []
    first, count = files[0], 0
    with status_line("Decoding images") as report, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            for index, (file, result) in enumerate(zip(block, pool.map(read, block), strict=True), start):
                if isinstance(result, DataError):
                    Broken(config.skip_broken).add(result)
                    broken.append((index, dataclasses.asdict(result.problems[0])))
                    continue
                image, hashes[count] = result
                if not count:
                    first, images = file, np.empty((len(files), *image.shape), dtype=np.uint8)
                require_same_size(file.path, image.shape, first.path, images.shape[1:])
                images[count] = image
                count += 1
            report((start + len(block)) / len(files))
    if not count:
        raise DataError(Problem(**broken[0][1]))
    images, hashes = images[:count], hashes[:count]
    return Prepared(
        {"fingerprint": fingerprint_of(images, hashes), "broken": broken}, {"images": images, "hashes": hashes}
    )
