"""Each class in each split, as far as it has samples; what was drawn rightly stays; what is missing is said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.data.splits import split_by_class, swap_in_missing, warn_of_missing_classes

FRACTIONS = st.sampled_from([0.0, 0.01, 1 / 7, 0.5, 0.99])


def drawn(labels, seed=0):
    return np.random.default_rng(seed).integers(2**64, size=len(labels), dtype=np.uint64)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), FRACTIONS, FRACTIONS)
def test_each_class_is_in_each_split_that_is_asked_for(labels, val_fraction, test_fraction):
    labels = np.array(labels)
    ids = split_by_class(labels, drawn(labels), val_fraction, test_fraction)
    assert sorted(np.concatenate(list(ids.values()))) == list(range(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        of_class = {split: int((labels[chosen] == label).sum()) for split, chosen in ids.items()}
        asked = ["train", *(["val"] if val_fraction else []), *(["test"] if test_fraction else [])]
        assert [split for split in ("train", "val", "test") if of_class[split]] == asked[:count]
        if 0 < test_fraction < 0.5 and 0 < val_fraction < 0.5:
            assert abs(of_class["test"] - test_fraction * count) <= 1
            assert abs(of_class["val"] - val_fraction * (count - of_class["test"])) <= 1


def test_copies_stay_together_even_where_their_labels_differ():
    labels, hashes = np.arange(60) % 3, drawn(range(60))
    hashes[30:] = hashes[:30][::-1]
    ids = split_by_class(labels, hashes, 0.3, 0.3)
    splits = [set(hashes[chosen].tolist()) for chosen in ids.values()]
    assert all(splits) and not (splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2])


def test_a_drawn_split_is_left_alone_unless_a_class_is_missing():
    labels, order = np.arange(100) % 4, np.random.default_rng(0).permutation(100)
    train, val = swap_in_missing(labels, order[20:], order[:20])
    assert (train.tolist(), val.tolist()) == (order[20:].tolist(), order[:20].tolist())
    labels = np.array([0] * 10 + [1, 1, 2, 2, 2, 3])
    ids = np.arange(16)
    for train, val in ((ids[6:], ids[:6]), (ids[:11], ids[11:]), (ids[:15], ids[15:]), (ids, ids[:0])):
        new_train, new_val = swap_in_missing(labels, train, val)
        assert sorted([*new_train, *new_val]) == ids.tolist()
        assert {0, 1, 2} <= set(labels[new_train]) and {0, 1, 2} <= set(labels[new_val])
        assert 3 in labels[new_train]
        if len(val) == 6:
            assert len(new_val) == 6


def test_where_every_class_has_one_sample_the_draw_stays():
    train, val = swap_in_missing(np.arange(10), np.arange(8), np.arange(8, 10))
    assert (train.tolist(), val.tolist()) == ([*range(8)], [8, 9])


def test_what_is_missing_is_said():
    labels = {"train": np.arange(9), "val": np.array([0, 8]), "test": np.empty(0, dtype=np.int64)}
    with pytest.warns(UserWarning) as said:
        warn_of_missing_classes("abcdefghij", labels, {"val": "add some"})
    assert [str(one.message) for one in said] == [
        "val has no sample of 7 of the 10 classes (b, c, d, e, f and 2 more); add some.",
        "test has no samples.",
    ]
