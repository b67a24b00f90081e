"""Docstrings and the package they belong to: nothing gives the answer away."""

import numpy as np
import pytest

from bigtrain.data.text.config import PythonDocsTopicsConfig
from bigtrain.data.text.topics import PACKAGES, PythonDocsTopics, gist, without_name


@pytest.fixture(scope="module")
def data(shared_cache):
    with pytest.warns(UserWarning, match="are cut to"):
        return PythonDocsTopics(PythonDocsTopicsConfig(cache_dir=shared_cache))


def texts_of(data, split):
    samples = data.dataset(split).gather(np.arange(data.spec.sizes[split]))
    rows = zip(samples["tokens"], samples["lengths"], strict=True)
    return [data.tokenizer.decode(row[1 : length - 1].numpy()) for row, length in rows], samples["labels"].tolist()


def test_there_are_enough_texts_of_every_class_in_every_split(data):
    assert data.spec.num_classes == len(data.spec.labels) == PACKAGES
    assert {"asyncio", "email", "tkinter"} <= set(data.spec.labels)
    for split, least in (("train", 40), ("val", 4), ("test", 4)):
        assert min(np.bincount(texts_of(data, split)[1], minlength=PACKAGES)) >= least


def test_no_text_names_its_package(data):
    for split in data.spec.sizes:
        for text, label in zip(*texts_of(data, split), strict=True):
            assert data.spec.labels[label] not in text.lower()


def test_no_text_is_in_two_splits_or_two_classes(data):
    shown = 100  # texts are cut to the longest allowed, so only those that were not are compared as they were
    texts = [gist(text) for split in data.spec.sizes for text in texts_of(data, split)[0] if len(text) < shown]
    assert len(texts) == len(set(texts)) > 500


def test_a_name_goes_also_from_inside_a_word():
    assert without_name("An AsyncIO loop: asyncio.run, test_asyncio", "asyncio") == "An _ loop: _.run, test__"
    assert gist("Read 12 bytes.\n") == gist("read 3 bytes")
