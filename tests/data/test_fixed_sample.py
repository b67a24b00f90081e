"""A fixed sample of a split: of the right size, spread, the same for every seed, whole stretches of a text."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.data.base import Dataset
from bigtrain.data.fixed_sample import FixedSample, train_sample_size
from bigtrain.data.loader import evaluation_stream_count
from bigtrain.randomness import SeedDomain


class Numbers(Dataset):
    """Sample i is i."""

    def __init__(self, size, contiguous=False):
        self.size, self.contiguous = size, contiguous
        self.lengths = np.arange(size) + 1

    def __len__(self):
        return self.size

    def gather(self, ids):
        return {"tokens": torch.from_numpy(ids)}


def sample_of(dataset, size):
    return FixedSample(dataset, size, SeedDomain.TRAIN_SAMPLE, dataset.contiguous)


def ids_of(sample):
    return sample.gather(np.arange(len(sample)))["tokens"].numpy()


@given(st.integers(1, 10_000_000), st.integers(1, 100_000))
def test_it_costs_about_a_fifth_of_an_evaluation(train, val):
    size = train_sample_size(train, val)
    assert 1 <= size <= min(train, val)
    assert size <= max(32, min(val // 5, 1000))
    assert size == min(train, val, 32) or size * 5 <= val


@given(st.integers(1, 5_000), st.data())
def test_its_samples_are_different_ones_of_the_split(total, data):
    size = data.draw(st.integers(1, total))
    for contiguous in (False, True):
        ids = ids_of(sample_of(Numbers(total, contiguous), size))
        assert len(ids) == size and len(set(ids.tolist())) == size
        assert ids.min() >= 0 and ids.max() < total


@given(st.integers(1, 3_000), st.data())
def test_stretches_of_a_text_are_those_that_are_read_from_end_to_end(total, data):
    size = data.draw(st.integers(1, total))
    ids = ids_of(sample_of(Numbers(total, contiguous=True), size))
    stretches = np.array_split(ids, evaluation_stream_count(size))
    assert all((np.diff(stretch) == 1).all() for stretch in stretches)


def test_labels_that_come_in_turns_are_all_met():
    ids = ids_of(sample_of(Numbers(5_000), 1_000))
    assert np.bincount(ids % 10).min() > 50


def test_lengths_go_with_the_samples():
    sample = sample_of(Numbers(500), 50)
    assert (sample.lengths == ids_of(sample) + 1).all()


def test_each_purpose_draws_its_own():
    samples = [FixedSample(Numbers(500), 50, domain, False) for domain in list(SeedDomain)[:3]]
    assert len({tuple(ids_of(sample)) for sample in samples}) == 3
