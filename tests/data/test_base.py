"""The base classes of data: their defaults, and data of plug-ins that does not inherit them."""

import numpy as np
import pytest
import torch

from bigtrain.data.base import DataModule, Dataset, DataSpec, as_data_module


class Plain:
    """A data module and its dataset in one, as a plug-in of 0.1 may have it."""

    tokenizer = None
    spec = DataSpec("vectors", "f", {"train": 3})

    def __init__(self, config=None, tokenizer=None):
        self.config = config

    def dataset(self, split):
        """The samples."""
        return PlainSamples()


class PlainSamples:
    """Sample i is i."""

    def __len__(self):
        return 3

    def gather(self, ids):
        """As `Dataset` has it."""
        return {"vectors": torch.from_numpy(ids)[:, None]}


def test_plain_data_joins_with_the_defaults_and_a_warning():
    with pytest.warns(UserWarning, match=r"Plain does not inherit bigtrain\.data\.base\.DataModule"):
        data = as_data_module(Plain())
    assert isinstance(data, DataModule) and (data.augment, data.originals) == (None, None)
    with pytest.warns(UserWarning, match=r"PlainSamples does not inherit bigtrain\.data\.base\.Dataset"):
        dataset = data.dataset("train")
    assert isinstance(dataset, Dataset) and (dataset.lengths, dataset.labels, dataset.contiguous) == (None, None, False)
    assert len(dataset) == 3 and dataset.gather(np.array([2]))["vectors"].tolist() == [[2]]
    assert as_data_module(data) is data


def test_what_is_missing_is_said_when_it_is_made():
    class Half(Dataset):
        def __len__(self):
            return 0

    with pytest.raises(TypeError, match="abstract method '?gather"):
        Half()
