"""Image data in MNIST's IDX format: finding the four files, and the data module. Reading one:
`data/images/idx_file.py`. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.config import IDXConfig
from bigtrain.data.images.idx_file import read_idx
from bigtrain.data.images.samples import ImageSamples, hold_out, normalization, split_of, warn_of_missing
from bigtrain.data.paths import as_path, is_hidden
from bigtrain.data.text.text_files import unreadable_file
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_PARTS = ("train-images", "train-labels", "test-images", "test-labels")
_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_PATTERN = re.compile(r"(.*?)(train|t10k|test)-(?:(images)[.-]idx[34]|(labels)[.-]idx1)-ubyte(?:\.gz)?")


class IDXImages(DataModule):
    """Data module `idx`: train and test as they come, validation held out of train; see `IDXConfig`.

    Raises DataError for files that are missing or damaged, and for labels that don't fit.
    """

    def __init__(self, config: IDXConfig, tokenizer: Tokenizer | None = None):
        files = find_idx_files(config)
        train_images, train_labels = _read_pair(config, files, "train")
        test_images, test_labels = _read_pair(config, files, "test")
        if train_images.shape[1:] != test_images.shape[1:]:
            raise _mismatch(
                files["test-images"],
                f"its images are {test_images.shape[1:]}, those of train {train_images.shape[1:]}",
            )
        names = _class_names(config, files, {"train": train_labels, "test": test_labels})
        self._samples, swapped = hold_out(train_images, train_labels, config.val_fraction)
        held_out = len(train_images) - len(self._samples["train"])
        self._samples["test"] = ImageSamples(test_images, test_labels)
        warn_of_missing(names, self._samples, config.val_fraction)
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of(train_images, train_labels, test_images, test_labels, held_out, names, *swapped),
            sizes={split: len(samples) for split, samples in self._samples.items()},
            input_shape=tuple(map(int, train_images.shape[1:])),
            num_classes=len(names),
            labels=names,
            normalization=normalization(self._samples["train"]),
        )
        self.augment = augmentation_for(config.augment, self.spec)

    def dataset(self, split: str) -> ImageSamples:
        return split_of(self._samples, split)


def find_idx_files(config: IDXConfig) -> dict[str, Path]:
    """The path of each part. Files may share a prefix (emnist-letters-train-…); a plain file wins over its .gz.

    They lie in the directory itself; each in a folder of its own name, as archives unpack; or in a folder below, or
    raw in it, as torchvision keeps them (MNIST/raw). Raises DataError that names the four files where none, not all,
    or more than one set of them is there.
    """
    folders = [as_path(config.path)] if config.path else [Path(place) for place in config.usual_places]
    missing = "no directory to look in was given"
    for folder in folders:
        for places in _places(folder):
            sets = {(place, prefix): found for place in places for prefix, found in _sets_in(place).items()}
            complete = [key for key, found in sets.items() if len(found) == len(_PARTS)]
            # Without a prefix in their names, or with the one asked for; else, unless one was, whichever there is.
            complete = [key for key in complete if key[1] == config.prefix] or ([] if config.prefix else complete)
            if len(complete) == 1:
                return sets[complete[0]]
            if complete:
                raise _ambiguous(folder, complete)
        missing = _missing(folder, config.prefix)
    raise DataError.of(
        "DATA-MISSING",
        "the image files are not there",
        cause=missing,
        fix=f"put {', '.join(config.prefix + name for name in _NAMES)} (each may end in .gz) into a directory, "
        "and give data.path=DIRECTORY" + (f"; or, {config.hint}" if config.hint else ""),
    )


def _places(folder: Path) -> Iterator[list[Path]]:
    """The folders that may hold the files: itself, then those below it, then raw in each of them."""
    yield [folder]
    below = [entry for entry in _entries(folder) if entry.is_dir() and not is_hidden(entry.name)]
    yield below
    yield [place / "raw" for place in below]


def _sets_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Prefix → part → path. The plain file is kept, not its .gz; a file, not the folder of its name."""
    sets: dict[str, dict[str, Path]] = {}
    entries = _entries(folder)
    inner = [path for entry in entries if _PATTERN.fullmatch(entry.name) and entry.is_dir() for path in _entries(entry)]
    for path in [*reversed(inner), *reversed(entries)]:  # what comes later wins
        if (match := _PATTERN.fullmatch(path.name)) and not path.is_dir():
            prefix, split, what = match[1], match[2], match[3] or match[4]
            sets.setdefault(prefix, {})[f"{'train' if split == 'train' else 'test'}-{what}"] = path
    return sets


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where there is none."""
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise unreadable_file(folder, error) from error
    except (OSError, ValueError):
        return []


def _ambiguous(folder: Path, sets: list[tuple[Path, str]]) -> DataError:
    places = sorted({str(place) for place, _ in sets})
    if len(places) > 1:
        cause, fix = f"there is one in each of {', '.join(places)}", f"choose one, for instance data.path={places[0]}"
    else:
        prefixes = sorted(prefix for _, prefix in sets)
        cause = f"their names begin with {', '.join(prefixes)}"
        fix = f"choose one, for instance data.prefix={prefixes[0]}"
    return DataError.of("DATA-AMBIGUOUS", f"{folder} holds more than one data set", cause=cause, fix=fix)


def _missing(folder: Path, wanted: str) -> str:
    there = _sets_in(folder)
    sets = {wanted: there.get(wanted, {})} if wanted else there
    missing = "; ".join(_absent(folder, prefix, found) for prefix, found in (sets or {"": {}}).items())
    if others := sorted(set(there) - set(sets)):
        missing += f"; what is there begins with {', '.join(other or 'train and t10k' for other in others)}"
    return missing


def _absent(folder: Path, prefix: str, found: dict[str, Path]) -> str:
    if not folder.is_dir():
        return f"{folder} is not a directory"
    absent = [prefix + name for part, name in zip(_PARTS, _NAMES, strict=True) if part not in found]
    return f"{folder} lacks {', '.join(absent)}"


def _read_pair(config: IDXConfig, files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W), upright, and labels (N,) that count from 0."""
    images = read_idx(files[f"{split}-images"], (3, 4))
    labels = read_idx(files[f"{split}-labels"], (1,))
    if len(images) != len(labels):
        raise _mismatch(files[f"{split}-labels"], f"it has {len(labels):,} labels for {len(images):,} images")
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        raise _mismatch(
            files[f"{split}-images"],
            f"its images are {images.shape[1:]}; channels come first: (channels, height, width)",
        )
    if labels.min() < config.first_label:
        raise _mismatch(
            files[f"{split}-labels"], f"it has label {labels.min()}; data.first_label is {config.first_label}"
        )
    images = images.reshape(len(images), -1, *images.shape[-2:])
    if config.transpose:
        images = np.ascontiguousarray(images.swapaxes(2, 3))
    return images, labels - np.uint8(config.first_label)


def _class_names(config: IDXConfig, files: dict[str, Path], labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    """The names given, or the numbers up to train's largest label: what train never saw can't be learnt.

    Names given must be as many as train's classes: those of another set of EMNIST would name the wrong ones.
    """
    first = config.first_label
    largest = {split: first + int(values.max()) for split, values in labels.items()}
    names = tuple(config.labels) or tuple(map(str, range(first, largest["train"] + 1)))
    last = first + len(names) - 1
    for split, label in largest.items():
        if label > last:
            known = "data.labels names" if config.labels else "the training labels are"
            raise _mismatch(files[f"{split}-labels"], f"it has label {label}; {known} {first} to {last}")
    if largest["train"] < last:
        raise _mismatch(
            files["train-labels"],
            f"its labels end at {largest['train']}; data.labels names {len(names)} classes, {first} to {last}",
            fix="name exactly the classes that it has; data.labels=[] takes the numbers",
        )
    return names


def _mismatch(path: Path, cause: str, fix: str = "use files that belong together") -> DataError:
    return DataError.of("DATA-IDX", f"{path} does not fit", cause=cause, fix=fix)
