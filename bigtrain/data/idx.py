"""Image data in MNIST's IDX format: finding the four files, and the data module. Reading one is
`data/idx_file.py`'s business. Nothing is downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bigtrain.data.base import DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.config import IDXConfig
from bigtrain.data.idx_file import read_idx
from bigtrain.data.images import ImageSamples, normalization
from bigtrain.data.order import permute
from bigtrain.data.tokenizer import Tokenizer
from bigtrain.errors import DataError

_PARTS = ("train-images", "train-labels", "test-images", "test-labels")
_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_PATTERN = re.compile(r"(.*?)(train|t10k|test)-(?:(images)[.-]idx[34]|(labels)[.-]idx1)-ubyte(?:\.gz)?")
_SPLIT_SEED = 20240229  # fixed: every run, whatever its seed, validates on the same images


class IDXImages:
    """Data module `idx`: train and test as they come, validation held out of train; see `IDXConfig`.

    Raises DataError for files that are missing or damaged, and for labels that don't fit.
    """

    tokenizer: Tokenizer | None = None

    def __init__(self, config: IDXConfig, tokenizer: Tokenizer | None = None):
        files = find_idx_files(config)
        train_images, train_labels = _read_pair(files, "train")
        test_images, test_labels = _read_pair(files, "test")
        if train_images.shape[1:] != test_images.shape[1:]:
            raise _mismatch(
                files["test-images"],
                f"its images are {test_images.shape[1:]}, those of train {train_images.shape[1:]}",
            )
        names = _class_names(config, files, {"train": train_labels, "test": test_labels})
        shuffled = permute(_SPLIT_SEED, 0, np.arange(len(train_images)), len(train_images))
        held_out = round(config.val_fraction * len(train_images))
        if held_out == len(train_images):
            raise _mismatch(
                files["train-images"], f"data.val_fraction={config.val_fraction} leaves nothing to train on"
            )
        self._samples = {
            "train": ImageSamples(train_images, train_labels, np.sort(shuffled[held_out:])),
            "val": ImageSamples(train_images, train_labels, np.sort(shuffled[:held_out])),
            "test": ImageSamples(test_images, test_labels),
        }
        self._samples = {split: samples for split, samples in self._samples.items() if len(samples)}
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of(train_images, train_labels, test_images, test_labels, held_out, names),
            sizes={split: len(samples) for split, samples in self._samples.items()},
            input_shape=tuple(map(int, train_images.shape[1:])),
            num_classes=len(names),
            labels=names,
            normalization=normalization(self._samples["train"]),
        )

    def dataset(self, split: str) -> ImageSamples:
        """See `data/base.py`."""
        if split not in self._samples:
            raise DataError.of("DATA-SPLIT", f"there is no {split} split", fix="raise data.val_fraction")
        return self._samples[split]


def find_idx_files(config: IDXConfig) -> dict[str, Path]:
    """The path of each part. Files may share a prefix (emnist-letters-train-…); a plain file wins over its
    .gz.

    Raises DataError that names the four files where none, not all, or more than one set of them is there.
    """
    folders = [Path(config.path).expanduser()] if config.path else [Path(place) for place in config.usual_places]
    missing = "no directory to look in was given"
    for folder in folders:
        sets = _sets_in(folder)
        complete = {prefix: found for prefix, found in sets.items() if len(found) == len(_PARTS)}
        if len(complete) == 1 or "" in complete:
            return complete.get("") or next(iter(complete.values()))
        if complete:
            raise DataError.of(
                "DATA-AMBIGUOUS",
                f"{folder} holds more than one data set",
                cause=f"their names begin with {', '.join(sorted(complete))}",
                fix="put the four files of one into a directory of their own, and give that as data.path",
            )
        missing = "; ".join(_absent(folder, prefix, found) for prefix, found in (sets or {"": {}}).items())
    raise DataError.of(
        "DATA-MISSING",
        "the image files are not there",
        cause=missing,
        fix=f"put {', '.join(_NAMES)} (each may end in .gz) into a directory, and give data.path=DIRECTORY"
        + (f"; or, {config.hint}" if config.hint else ""),
    )


def _folder(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of an unknown user: reported as a directory that is not there
        return Path(path)


def _sets_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Prefix → part → path."""
    sets: dict[str, dict[str, Path]] = {}
    try:
        entries = sorted(folder.iterdir(), reverse=True)  # x after x.gz, so that the plain file is kept
    except (OSError, ValueError):
        return sets
    for path in entries:
        if match := _PATTERN.fullmatch(path.name):
            prefix, split, what = match[1], match[2], match[3] or match[4]
            sets.setdefault(prefix, {})[f"{'train' if split == 'train' else 'test'}-{what}"] = path
    return sets


def _absent(folder: Path, prefix: str, found: dict[str, Path]) -> str:
    if not folder.is_dir():
        return f"{folder} is not a directory"
    absent = [prefix + name for part, name in zip(_PARTS, _NAMES, strict=True) if part not in found]
    return f"{folder} lacks {', '.join(absent)}"


def _read_pair(files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels (N,)."""
    images = read_idx(files[f"{split}-images"], (3, 4))
    labels = read_idx(files[f"{split}-labels"], (1,))
    if len(images) != len(labels):
        raise _mismatch(files[f"{split}-labels"], f"it has {len(labels):,} labels for {len(images):,} images")
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        raise _mismatch(
            files[f"{split}-images"],
            f"its images are {images.shape[1:]}; channels come first: (channels, height, width)",
        )
    return images.reshape(len(images), -1, *images.shape[-2:]), labels


def _class_names(config: IDXConfig, files: dict[str, Path], labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    """The names given, or the numbers up to train's largest label: what train never saw can't be learnt."""
    largest = {split: int(values.max()) for split, values in labels.items()}
    names = tuple(config.labels) or tuple(map(str, range(largest["train"] + 1)))
    for split, label in largest.items():
        if label >= len(names):
            known = "data.labels names" if config.labels else "the training labels are"
            raise _mismatch(files[f"{split}-labels"], f"it has label {label}; {known} 0 to {len(names) - 1}")
    return names


def _mismatch(path: Path, cause: str) -> DataError:
    return DataError.of("DATA-IDX", f"{path} does not fit", cause=cause, fix="use files that belong together")
