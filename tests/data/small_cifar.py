"""CIFAR's files with a five-hundredth of their records, for the tests of data."""

from dataclasses import replace

import numpy as np

import bigtrain.data.images.cifar as cifar

LAYOUTS = {
    name: replace(layout, **{split: {file: count // 500 for file, count in files.items()} for split, files in both})
    for name, layout in (("CIFAR10", cifar.CIFAR10), ("CIFAR100", cifar.CIFAR100))
    for both in [(("train", layout.train), ("test", layout.test))]
}


def shrink(monkeypatch):
    """From now on CIFAR's files are these."""
    for name, layout in LAYOUTS.items():
        monkeypatch.setattr(cifar, name, layout)


def records(layout):
    """File name → records (N, bytes): labels that go round, and random pixels."""
    generator, files = np.random.default_rng(0), {}
    for name, count in (layout.train | layout.test).items():
        labels = [np.arange(count) % known.num_classes for known in layout.labels]
        files[name] = np.column_stack([*labels, generator.integers(0, 256, (count, 3072))]).astype(np.uint8)
    return files


def write(folder, layout):
    """The files in a folder of their usual name; its path."""
    (folder / layout.folder).mkdir()
    for name, content in records(layout).items():
        (folder / layout.folder / name).write_bytes(content.tobytes())
    return folder / layout.folder
