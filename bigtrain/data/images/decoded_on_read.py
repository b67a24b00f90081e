"""Images of a folder that are decoded each time they are read, where all of them would not fit: the rule that decides,
the index of the files, their samples.

Before a training each file is read once, for its hash (splits and fingerprint follow from it) and its header; what is
damaged behind the header is found when it is decoded. The index is kept in blocks, so that a start that was interrupted
goes on where it was. Mean and deviation are those of a fixed sample of the training images. In memory is what a batch
holds, and per file its name and hash.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import Dataset
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.file_state import changed_while_read, unchanged
from bigtrain.data.images.class_folders import Broken, Found, file_facts
from bigtrain.data.images.config import ImageFolderConfig
from bigtrain.data.images.image_file import read_header, read_image, require_same_size
from bigtrain.data.images.samples import normalization_of_blocks
from bigtrain.data.permutation import permute
from bigtrain.data.text.text_files import unreadable_file
from bigtrain.errors import DataError, Problem
from bigtrain.randomness import SeedDomain
from bigtrain.tracking.status_line import status_line

MOST_BYTES = 4 << 30
"""Images that are more than this, decoded, are decoded when read. A constant, not a share of this machine's memory: the
two ways have other fingerprints, and a run may be resumed on another machine."""

NORMALIZED = 4096
"""Training images that mean and deviation are taken of, where there are more."""

_VERSION = 1  # of the index; part of the cache key
_INDEXED = 8192  # files in a block of the index: a gigabyte of photographs, which is what an interruption costs
_DECODED = 64  # images held at once for mean and deviation


def decodes_on_read(config: ImageFolderConfig, files: list[Found], facts: list[list[Any]]) -> bool:
    """As set; auto: whether all images have more than `MOST_BYTES`, by the size that is set, or that of the first."""
    if config.decode != "auto":
        return config.decode == "on_read"
    if config.size is not None:
        return len(files) * config.channels * config.size**2 > MOST_BYTES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cache that can't be written: said of what is larger
        for file, fact in zip(files, facts, strict=True):
            if shape := _kept_shape(config, file, fact):
                return len(files) * math.prod(shape) > MOST_BYTES
    return False


def _kept_shape(config: ImageFolderConfig, file: Found, fact: list[Any]) -> list[int] | None:
    """The shape of an image, from the cache where it has it; None of a file that is none."""

    def build() -> Prepared:
        try:
            return Prepared({"shape": list(read_header(file.path, config.size, config.channels)[0])}, {})
        except DataError:
            return Prepared({"shape": None}, {})

    key = fingerprint_of("image_shape", _VERSION, fact, config.size, config.channels)
    shape: list[int] | None = load_or_build(cache_root(config.cache_dir), "image_index", key, build).meta["shape"]
    return shape


def index_files(root: Path, config: ImageFolderConfig, files: list[Found], facts: list[list[Any]]) -> Prepared:
    """`hashes` (N,) of the files that can be read; meta: their "shape", "fingerprint" and "broken", of each other file
    its index and what is wrong with it. Each block of files is from the cache while none of it has changed.

    With `skip_broken` every image is decoded, and forgotten: a damaged one could not be left out later.
    """
    hashes: list[np.ndarray] = []
    broken: list[tuple[int, dict[str, Any]]] = []
    shape, first = None, files[0]
    with status_line("Reading the image files") as report:
        for start in range(0, len(files), _INDEXED):
            block = slice(start, start + _INDEXED)
            progress = functools.partial(_report_of_block, report, start, len(files))
            prepared = _indexed(root, config, files[block], facts[block], progress)
            hashes.append(prepared.arrays["hashes"])
            broken += [(start + index, problem) for index, problem in prepared.meta["broken"]]
            if prepared.meta["shape"] is not None:
                here = files[start + prepared.meta["first"]]
                shape, first = (shape, first) if shape else (tuple(prepared.meta["shape"]), here)
                require_same_size(here.path, tuple(prepared.meta["shape"]), first.path, shape)
    if shape is None:
        raise DataError(Problem(**broken[0][1]))
    joined = np.concatenate(hashes)
    fingerprint = fingerprint_of("decoded_on_read", shape, joined)
    return Prepared({"fingerprint": fingerprint, "shape": shape, "broken": broken}, {"hashes": joined})


def _report_of_block(report: Any, start: int, total: int, done: int) -> None:
    report((start + done) / total)


def _indexed(
    root: Path, config: ImageFolderConfig, files: list[Found], facts: list[list[Any]], report: Any
) -> Prepared:
    """A block of the index; meta: "first" is the index of the first file that can be read, "shape" that of all."""
    how = [config.size, config.channels, config.skip_broken]
    key = fingerprint_of("image_index", _VERSION, facts, *how)

    def build() -> Prepared:
        built = _read_all(config, files, report)
        changed = [now[0] for before, now in zip(facts, file_facts(root, files), strict=True) if before != now]
        if changed:
            raise changed_while_read(root / changed[0], f"{len(changed):,} files were written to, or replaced")
        return built

    return load_or_build(cache_root(config.cache_dir), "image_index", key, build)


def _read_all(config: ImageFolderConfig, files: list[Found], report: Any) -> Prepared:
    def read(file: Found) -> tuple[tuple[int, ...], int] | DataError:
        try:
            with unchanged(file.path):
                if not config.skip_broken:
                    return read_header(file.path, config.size, config.channels)
                image, found = read_image(file.path, config.size, config.channels)
                return image.shape, found
        except DataError as error:
            return error
        except OSError as error:
            return unreadable_file(file.path, error)

    hashes: list[int] = []
    broken: list[tuple[int, dict[str, Any]]] = []
    shape, first = None, 0
    for index, (file, result) in enumerate(zip(files, decoding_pool().map(read, files), strict=True)):
        if isinstance(result, DataError):
            Broken(config.skip_broken).add(result)
            broken.append((index, dataclasses.asdict(result.problems[0])))
            continue
        shape, first = (shape, first) if shape else (result[0], index)
        require_same_size(file.path, result[0], files[first].path, shape)
        hashes.append(result[1])
        report(index)
    return Prepared({"shape": shape, "first": first, "broken": broken}, {"hashes": np.array(hashes, dtype=np.uint64)})


class FolderFiles:
    """The files that an index is of, with their `file_facts`: reads them by their number in it. In memory are a name
    and 16 bytes for each.
    """

    def __init__(self, root: Path, config: ImageFolderConfig, facts: list[list[Any]], index: Prepared):
        names = [os.fsencode(name) for name, *_ in facts]
        self.shape: tuple[int, ...] = tuple(index.meta["shape"])
        self._root = root
        self._size, self._channels = config.size, config.channels
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names])
        self._hashes = index.arrays["hashes"]
        warnings.filterwarnings("ignore", module="PIL")  # of EXIF and the like: it does not say in which file

    def path(self, number: int) -> Path:
        """Where a file lies."""
        begin = int(self._ends[number - 1]) if number else 0
        return self._root / os.fsdecode(self._names[begin : int(self._ends[number])])

    def read(self, number: int) -> np.ndarray:
        """(C, H, W) uint8. Raises DataError, naming the file, for one that is damaged, or no longer what it was."""
        path = self.path(number)
        pixels, found = read_image(path, self._size, self._channels)
        if found != self._hashes[number]:
            raise DataError.of(
                "DATA-CHANGED",
                f"{path} is not the file that this run began with",
                cause="it was written to, or replaced",
                fix="put it back; or start a new run, with the images as they are now",
            )
        return pixels


class FileSamples(Dataset):
    """The images of one split, `chosen` (N,) among the files, with the labels (F,) of all files; decoded in threads."""

    def __init__(self, split: str, files: FolderFiles, labels: np.ndarray, chosen: np.ndarray):
        self._split = split
        self._files = files
        self._chosen = chosen
        self.labels: np.ndarray = labels[chosen].astype(np.int64)

    def __len__(self) -> int:
        return len(self._chosen)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        images = np.empty((len(ids), *self._files.shape), dtype=np.uint8)

        def read(place: int) -> None:
            images[place] = self._read(int(ids[place]))

        for _ in decoding_pool().map(read, range(len(ids))):
            pass  # raises what reading has raised
        return {"images": torch.from_numpy(images), "labels": torch.from_numpy(self.labels[ids])}

    def _read(self, sample: int) -> np.ndarray:
        try:
            return self._files.read(int(self._chosen[sample]))
        except DataError as error:
            raise DataError(*(self._located(problem, sample) for problem in error.problems)) from error

    def _located(self, problem: Problem, sample: int) -> Problem:
        fix = problem.fix
        if problem.code == "DATA-IMAGE":  # nothing but the header has been looked at
            fix += "; a new run with data.skip_broken=true decodes every image before it begins, and leaves out such"
        return dataclasses.replace(problem, message=f"{problem.message} (sample {sample:,} of {self._split})", fix=fix)


def file_normalization(config: ImageFolderConfig, train: FileSamples, fingerprint: str) -> dict[str, list[float]]:
    """Mean and standard deviation per channel of `NORMALIZED` training images, or of all where they are fewer; from the
    cache, while the data has this fingerprint.
    """

    def build() -> Prepared:
        count = min(NORMALIZED, len(train))
        ids = np.sort(permute(SeedDomain.NORMALIZATION_SAMPLE, 0, np.arange(count), len(train)))
        with status_line("Measuring mean and deviation of the images") as report:

            def decoded(start: int) -> np.ndarray:
                report(start / count)
                return train.gather(ids[start : start + _DECODED])["images"].numpy()

            blocks = map(decoded, range(0, count, _DECODED))
            return Prepared({"normalization": normalization_of_blocks(blocks, config.channels)}, {})

    key = fingerprint_of("image_normalization", _VERSION, NORMALIZED, fingerprint)
    found: dict[str, list[float]]
    found = load_or_build(cache_root(config.cache_dir), "image_index", key, build).meta["normalization"]
    return found


def decoding_pool() -> ThreadPoolExecutor:
    """The threads of this process that decode, one for each core: Pillow lets go of the interpreter as it decodes."""
    return _pool_of(os.getpid())


@functools.cache
def _pool_of(process: int) -> ThreadPoolExecutor:  # a forked process has none of the threads
    return ThreadPoolExecutor(os.cpu_count(), "decode")
