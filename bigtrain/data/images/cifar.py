"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their binary files: what is in them, and the data modules. Finding and
reading the files: `data/images/cifar_files.py`. Nothing is downloaded.

A record is one byte per label, then 32 x 32 pixels of red, of green, of blue. CIFAR-100 has two labels: one of 20
superclasses, then one of 100 classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.cifar_files import broken, read_files
from bigtrain.data.images.config import CIFAR10Config, CIFAR100Config
from bigtrain.data.images.samples import ImageSamples, hold_out, normalization, split_of, warn_of_missing
from bigtrain.data.paths import as_path
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Labels:
    """Which of the labels of a record is learnt, of how many classes; the file with their names, and names if it is
    not there.
    """

    place: int
    num_classes: int
    names_file: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The files of a version, each with its number of records, and the labels that a record has."""

    folder: str
    train: dict[str, int]
    test: dict[str, int]
    labels: tuple[Labels, ...]


_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10 = Layout(
    "cifar-10-batches-bin",
    {f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    {"test_batch.bin": 10_000},
    (Labels(0, 10, "batches.meta.txt", _NAMES),),
)
CIFAR100 = Layout(
    "cifar-100-binary",
    {"train.bin": 50_000},
    {"test.bin": 10_000},
    (
        Labels(0, 20, "coarse_label_names.txt", tuple(map(str, range(20)))),
        Labels(1, 100, "fine_label_names.txt", tuple(map(str, range(100)))),
    ),
)


class CIFAR(DataModule):
    """Data modules `cifar10` and `cifar100`: train and test as they come, validation held out of train.

    Raises DataError for files that are missing or damaged, and for the version with pickles.
    """

    def __init__(self, config: CIFAR10Config | CIFAR100Config, tokenizer: Tokenizer | None = None):
        layout = CIFAR10 if isinstance(config, CIFAR10Config) else CIFAR100
        labels = layout.labels[0 if isinstance(config, CIFAR10Config) or config.coarse else 1]
        if config.path is None:
            raise DataError.of(
                "DATA-MISSING",
                "CIFAR's files are not there",
                cause="no path was given, and bigtrain downloads nothing by itself",
                fix="download the binary version from cs.toronto.edu/~kriz/cifar.html, and give data.path=PATH",
            )
        path = as_path(config.path)
        record = len(layout.labels) + math.prod(_SHAPE)
        file_sizes = {name: count * record for name, count in (layout.train | layout.test).items()}
        files = read_files(path, layout.folder, file_sizes, [labels.names_file])
        train, test = (_images_and_labels(path, files, names, layout, labels) for names in (layout.train, layout.test))
        names = _class_names(path, files.get(labels.names_file), labels)
        self._samples, swapped = hold_out(*train, config.val_fraction)
        self._samples["test"] = ImageSamples(*test)
        warn_of_missing(names, self._samples, config.val_fraction)
        sizes = {split: len(samples) for split, samples in self._samples.items()}
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of(*train, *test, sizes["train"], names, *swapped),
            sizes=sizes,
            input_shape=_SHAPE,
            num_classes=labels.num_classes,
            labels=names,
            normalization=normalization(self._samples["train"]),
        )
        self.augment = augmentation_for(config.augment, self.spec)

    def dataset(self, split: str) -> ImageSamples:
        return split_of(self._samples, split)


def _images_and_labels(
    path: Path, files: dict[str, bytes], names: dict[str, int], layout: Layout, labels: Labels
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) uint8 of these files, one after the other."""
    images, chosen = [], []
    for name, count in names.items():
        records = np.frombuffer(files[name], dtype=np.uint8).reshape(count, -1)
        for known in layout.labels:
            wrong = np.flatnonzero(records[:, known.place] >= known.num_classes)
            if len(wrong):
                byte = int(wrong[0]) * records.shape[1] + known.place
                label = records[wrong[0], known.place]
                raise broken(path, f"{name} has label {label} at byte {byte:,}; they go to {known.num_classes - 1}")
        images.append(records[:, len(layout.labels) :].reshape(count, *_SHAPE))
        chosen.append(records[:, labels.place])
    return np.concatenate(images), np.concatenate(chosen)


def _class_names(path: Path, content: bytes | None, labels: Labels) -> tuple[str, ...]:
    if content is None:
        return labels.names
    try:
        names = tuple(content.decode().split())
    except UnicodeDecodeError as error:
        raise broken(path, f"{labels.names_file} is not UTF-8 at byte {error.start}") from error
    if len(set(names)) != labels.num_classes or len(names) != labels.num_classes:
        raise broken(path, f"{labels.names_file} names {len(set(names))} classes, where there are {labels.num_classes}")
    return names
