"""A few samples of each split: the first, as long as they have every class."""

import numpy as np
import pytest

from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.samples import ImageSamples
from bigtrain.data.limited import LimitedData


class Data(DataModule):
    """Train with the labels given, val with the same."""

    def __init__(self, labels):
        images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
        self._samples = ImageSamples(images, np.array(labels))
        self.spec = DataSpec("images", "f", {"train": len(labels), "val": len(labels)}, num_classes=3)

    def dataset(self, split):
        return self._samples


@pytest.mark.parametrize(
    ("labels", "limit", "expected"),
    [
        ([0, 1, 2, 0, 1, 2], 4, [0, 1, 2, 3]),
        ([0, 0, 0, 0, 1, 1, 1, 2], 4, [0, 1, 4, 7]),
        ([2, 2, 2, 0, 1, 1, 1, 1], 5, [0, 1, 2, 3, 4]),
        ([0, 0, 1, 1, 2], 2, [0, 2]),
        ([0, 0, 1], None, [0, 1, 2]),
    ],
)
def test_each_class_is_there_if_there_is_room(labels, limit, expected):
    data = LimitedData(Data(labels), limit, overfit=False)
    few = data.dataset("val")
    assert len(few) == len(expected) == data.spec.sizes["train"]
    assert few.gather(np.arange(len(few)))["images"].flatten().tolist() == expected
    first = expected == list(range(len(expected)))
    assert (data.spec.fingerprint == fingerprint_of("f", limit, False)) is first
