"""Baselines against computations by hand: majority, nearest centroid of vectors, images, sentences; hidden tokens."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.tasks import baselines
from bigtrain.tasks.classification import Classification
from bigtrain.tasks.config import ClassificationConfig, MaskedLanguageModelingConfig, RegressionConfig
from bigtrain.tasks.masked_lm import MaskedLanguageModeling
from bigtrain.tasks.regression import Regression


class Samples(Dataset):
    def __init__(self, lengths=None, **arrays):
        self.arrays = {name: torch.as_tensor(value) for name, value in arrays.items()}
        if lengths is not None:
            self.lengths = np.asarray(lengths)
            self.arrays["lengths"] = torch.as_tensor(self.lengths)

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def gather(self, ids):
        return {name: value[torch.as_tensor(ids)] for name, value in self.arrays.items()}


class Data(DataModule):
    def __init__(self, spec, **splits):
        self.splits = splits
        sizes = {name: len(split) for name, split in splits.items()}
        self.spec = DataSpec(fingerprint="", sizes=sizes, **spec)

    def dataset(self, split):
        return self.splits[split]


def classified(data):
    task = Classification(ClassificationConfig(), data.spec)
    return task.baselines(data, ["test"])


def by_hand(train_x, train_y, test_x, classes):
    centroids = {c: train_x[train_y == c].mean(axis=0) for c in range(classes) if (train_y == c).any()}
    return np.array([min(centroids, key=lambda c: ((x - centroids[c]) ** 2).sum()) for x in test_x])


def test_nearest_centroid_of_vectors(monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK", 7)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 5)).astype(np.float32), generator.integers(0, 3, 60)
    x += y[:, None] * 0.8
    data = Data(
        {"kind": "vectors", "num_classes": 4, "input_shape": (5,)},  # the fourth class never occurs
        train=Samples(vectors=x[:40], labels=y[:40]),
        test=Samples(vectors=x[40:], labels=y[40:]),
    )
    found = classified(data)
    expected = by_hand(x[:40].astype(float), y[:40], x[40:].astype(float), 4)
    assert found.metrics["test"]["centroid_accuracy"] == pytest.approx((expected == y[40:]).mean())
    commonest = Counter(y[:40].tolist()).most_common(1)[0][0]
    assert found.metrics["test"]["majority_accuracy"] == pytest.approx((y[40:] == commonest).mean())
    assert not found.notes


def test_images_are_compared_as_the_model_reads_them_and_unlabelled_ones_do_not_count():
    generator = np.random.default_rng(1)
    images, y = generator.integers(0, 256, (50, 2, 3, 3), dtype=np.uint8), generator.integers(0, 2, 50)
    y[45] = y[3] = -100
    mean, std = [0.4, 0.5], [0.1, 0.3]
    data = Data(
        {"kind": "images", "num_classes": 2, "input_shape": (2, 3, 3), "normalization": {"mean": mean, "std": std}},
        train=Samples(images=images[:30], labels=y[:30]),
        test=Samples(images=images[30:], labels=y[30:]),
    )
    x = (images / 255 - np.reshape(mean, (2, 1, 1))) / np.reshape(std, (2, 1, 1))
    expected = by_hand(x[:30].reshape(30, -1), y[:30], x[30:].reshape(20, -1), 2)
    known = y[30:] >= 0
    accuracy = (expected == y[30:])[known].mean()
    assert classified(data).metrics["test"]["centroid_accuracy"] == pytest.approx(accuracy)


def sentences(texts, labels):
    lengths = [len(text) for text in texts]
    tokens = np.zeros((len(texts), max(lengths)), dtype=np.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    return Samples(lengths, tokens=tokens, labels=np.array(labels))


def test_nearest_centroid_of_sentences(monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK", 3)
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 3, 30).tolist()
    texts = [[1, *generator.integers(2 + 2 * y, 9 + 2 * y, 2 + int(generator.integers(6)))] for y in labels]
    data = Data(
        {"kind": "sentences", "num_classes": 3, "vocab_size": 14},
        train=sentences(texts[:20], labels[:20]),
        test=sentences(texts[20:], labels[20:]),
    )
    frequency = Counter(token for text in texts[:20] for token in set(text))

    def vector(text):
        weights = np.zeros(15)
        for token, count in Counter(text).items():
            weights[token] = count * math.log(21 / (1 + frequency[token]))
        return weights / (np.linalg.norm(weights) or 1.0)

    centroids = [sum(vector(t) for t, y in zip(texts[:20], labels[:20], strict=True) if y == c) for c in range(3)]
    centroids = [centroid / np.linalg.norm(centroid) for centroid in centroids]
    chosen = [int(np.argmax([centroid @ vector(text) for centroid in centroids])) for text in texts[20:]]
    expected = np.mean(np.array(chosen) == labels[20:])
    assert classified(data).metrics["test"]["centroid_accuracy"] == pytest.approx(expected)


def test_hidden_tokens_are_guessed_by_their_frequency():
    generator = np.random.default_rng(3)
    train, test = generator.choice(6, (20, 33), p=[0.05, 0.4, 0.3, 0.15, 0.06, 0.04]), generator.integers(1, 6, (8, 33))
    spec = {"kind": "text", "vocab_size": 6, "sequence_length": 32, "special_tokens": {"end_of_text": 0}}
    data = Data(spec, train=Samples(tokens=train), test=Samples(tokens=test))
    task = MaskedLanguageModeling(MaskedLanguageModelingConfig(), data.spec)
    counts = np.bincount(train.ravel(), minlength=7)
    counts[0] = 0
    probability = (counts + 5 / 7) / (counts.sum() + 5)
    hidden = []
    real = task.collate

    def collate(samples, training):
        batch = real(samples, training)
        hidden.extend(batch["targets"][batch["targets"] >= 0].tolist())
        return batch

    task.collate = collate
    found = task.baselines(data, ["test"]).metrics["test"]["unigram_loss"]
    assert hidden and 0 not in hidden
    assert found == pytest.approx(-np.log(probability[hidden]).mean())


def test_a_part_is_read_of_what_is_too_large_and_that_is_said(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_PIXELS", 100)
    x, y = np.zeros((60, 5), dtype=np.float32), np.zeros(60, dtype=np.int64)
    spec = {"kind": "vectors", "num_classes": 2, "input_shape": (5,)}
    data = Data(spec, train=Samples(vectors=x, labels=y), test=Samples(vectors=x[:9], labels=y[:9]))
    found = classified(data)
    assert found.notes == ["the baselines are of 20 samples of the train split"]
    assert found.metrics["test"]["majority_accuracy"] == 1.0


def test_values_have_none():
    spec = {"kind": "vectors", "input_shape": (2,), "values": ("y",), "value_normalization": {"mean": [0], "std": [1]}}
    data = Data(spec, train=Samples(vectors=np.zeros((3, 2)), values=np.zeros((3, 1))))
    assert Regression(RegressionConfig(), data.spec).baselines(data, ["train"]).metrics == {}
