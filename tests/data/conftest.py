"""Generated data that several data tests read."""

import gzip
import struct

import numpy as np
import pytest

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _write_idx_set(folder, prefix="", packed=False, shape=(5, 4), train=60, test=20, seed=0, labels=range(10)):
    generator, arrays = np.random.default_rng(seed), {}
    for name, count in zip(IDX_NAMES, (train, train, test, test), strict=True):
        images = generator.integers(0, 256, (count, *shape))
        arrays[name] = images if "images" in name else np.resize(labels, count)
        content = _idx_bytes(arrays[name])
        path = folder / (prefix + name + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.fixture(scope="session")
def idx_bytes():
    """array → the bytes of an IDX file."""
    return _idx_bytes


@pytest.fixture(scope="session")
def write_idx_set():
    """Writes four files of random images, whose labels go round those given; returns the arrays by file name."""
    return _write_idx_set


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache folder for the whole session, so that Python's docstrings are parsed once."""
    return str(tmp_path_factory.mktemp("cache"))
