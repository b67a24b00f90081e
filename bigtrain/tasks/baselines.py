"""Baselines: trivial models, fitted to the training split and measured on another. Those of language models are in
`ngram_baseline.py`.

masked tokens       the loss of unigrams, on the tokens that the task hides
classes             the accuracy of the commonest class, and of the nearest centroid (Rocchio; Manning, Raghavan &
                    Schütze 2008, ch. 14.2): of images and vectors as the model reads them, by Euclidean distance; of
                    sentences as tf-idf weights of their tokens, by cosine

Regression needs none: R² is the gain over the mean. At most so many samples are read that it takes about a second; a
note says how many, where that is not all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from bigtrain.data.base import DataModule, Dataset
from bigtrain.data.loader import Collate, evaluation_batches
from bigtrain.data.permutation import permute
from bigtrain.distributed.world import lone_world
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.randomness import SeedDomain
from bigtrain.tasks.base import Baselines
from bigtrain.tasks.inputs import Inputs
from bigtrain.tasks.ngram_baseline import MAX_TOKENS, smoothed_unigram

MAX_PIXELS = 100_000_000  # values of images and vectors read of a split
MAX_WORDS = 2_000_000  # tokens of sentences read of a split, padding included
_CHUNK = 2048


def _partly(count: int, of: str, split: str) -> str:
    return f"the baselines are of {count:,} {of} of the {split} split"


def masked_token_baselines(
    data: DataModule, splits: Sequence[str], collate: Collate, needs_partners: bool
) -> Baselines:
    """`unigram_loss`: nats per hidden token of the batches that `collate` makes."""
    spec, train, found = data.spec, data.dataset("train"), Baselines()
    read = _read(train, MAX_TOKENS)
    if len(read) < len(train):
        found.notes.append(_partly(len(read), "samples", "train"))
    counts = np.zeros(spec.num_embeddings, dtype=np.int64)
    for ids in _chunks(read):
        samples = train.gather(ids)
        counts += np.bincount(_tokens(samples)[1], minlength=len(counts))
    counts[[spec.mask_id, *spec.special_tokens.values()]] = 0  # which are never hidden
    for split in splits:
        batches = evaluation_batches(data.dataset(split), collate, _CHUNK, lone_world("0"), needs_partners)
        nats = targets = 0.0
        for batch, _ in batches:
            token = batch["targets"][batch["targets"] != UNSCORED].numpy()
            nats -= float(np.log(smoothed_unigram(counts, token)).sum())
            targets += len(token)
        found.metrics[split] = {"unigram_loss": nats / targets} if targets else {}
    return found


def class_baselines(data: DataModule, splits: Sequence[str]) -> Baselines:
    """`majority_accuracy` and `centroid_accuracy`: of the commonest class, and of the class of the nearest centroid."""
    found = Baselines()
    is_text = data.spec.input_shape is None
    most = MAX_WORDS if is_text else MAX_PIXELS
    read = {split: _read(data.dataset(split), most) for split in ("train", *splits)}
    found.notes += [
        _partly(len(ids), "samples", split) for split, ids in read.items() if len(ids) < len(data.dataset(split))
    ]
    labels = {split: _labels(data.dataset(split), ids) for split, ids in read.items()}
    classes = data.spec.num_classes or 1
    occurrences = np.bincount(labels["train"][labels["train"] != UNSCORED], minlength=classes)
    nearest = (_nearest_text if is_text else _nearest_point)(data, read, labels["train"])
    for split in splits:
        known = labels[split] != UNSCORED
        if not known.any() or not occurrences.any():
            continue
        found.metrics[split] = {
            "majority_accuracy": float(np.mean(labels[split][known] == occurrences.argmax())),
            "centroid_accuracy": float(np.mean(labels[split][known] == nearest(split)[known])),
        }
    return found


def _nearest_point(data: DataModule, read: dict[str, np.ndarray], labels: np.ndarray) -> Callable[[str], np.ndarray]:
    """The function split → class (N,) of the nearest centroid, of what is read of that split."""
    inputs, train, classes = Inputs(data.spec), data.dataset("train"), data.spec.num_classes or 1

    def points(dataset: Dataset, ids: np.ndarray) -> Iterator[torch.Tensor]:
        for chunk in _chunks(ids):
            yield inputs(dataset.gather(chunk))["inputs"].flatten(1)

    sums = counts = None
    for x_BF, label_B in zip(points(train, read["train"]), _chunks(labels), strict=True):
        one_hot_BC = torch.from_numpy((label_B[:, None] == np.arange(classes)).astype(np.float32))
        chunk_sums_CF, chunk_counts_C = (one_hot_BC.t() @ x_BF).double(), one_hot_BC.sum(dim=0).double()
        sums = chunk_sums_CF if sums is None else sums + chunk_sums_CF
        counts = chunk_counts_C if counts is None else counts + chunk_counts_C
    assert sums is not None and counts is not None
    centroids_CF = (sums / counts.clamp(min=1)[:, None]).float()
    # |x - c|² less |x|², which is the same for all classes; a class that never occurs is never the nearest.
    size_C = centroids_CF.square().sum(dim=1).masked_fill(counts == 0, torch.inf)

    def nearest(split: str) -> np.ndarray:
        vectors = points(data.dataset(split), read[split])
        return torch.cat([(size_C - 2 * x_BF @ centroids_CF.t()).argmin(dim=1) for x_BF in vectors]).numpy()

    return nearest


def _nearest_text(data: DataModule, read: dict[str, np.ndarray], labels: np.ndarray) -> Callable[[str], np.ndarray]:
    """Like `_nearest_point`, of sentences."""
    size, classes = data.spec.num_embeddings, data.spec.num_classes or 1
    row, token, count = _bags(data.dataset("train"), read["train"], size)
    inverse_V = np.log((1 + len(labels)) / (1 + np.bincount(token, minlength=size)))
    weight = _normalized(row, count * inverse_V[token], len(labels))
    sums = [np.bincount(token, weight * (labels[row] == number), minlength=size) for number in range(classes)]
    centroids_CV = [sum_V / (np.linalg.norm(sum_V) or 1.0) for sum_V in sums]

    def nearest(split: str) -> np.ndarray:
        row, token, count = _bags(data.dataset(split), read[split], size)
        weight = count * inverse_V[token]
        scores = [np.bincount(row, weight * centroid_V[token], len(read[split])) for centroid_V in centroids_CV]
        return np.argmax(scores, axis=0)

    return nearest


def _bags(dataset: Dataset, ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, token, count) of every different token of every sentence."""
    keys, counts = [], []
    for first, chunk in zip(range(0, len(ids), _CHUNK), _chunks(ids), strict=True):
        row, token = _tokens(dataset.gather(chunk))
        found, times = np.unique((first + row) * size + token, return_counts=True)
        keys.append(found)
        counts.append(times)
    row, token = np.divmod(np.concatenate(keys), size)
    return row, token, np.concatenate(counts)


def _tokens(samples: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """(row, token) of all tokens, padding left out."""
    tokens = samples["tokens"].numpy()
    present = np.ones(tokens.shape, dtype=bool)
    if "lengths" in samples:
        present = np.arange(tokens.shape[1]) < samples["lengths"].numpy()[:, None]
    return np.nonzero(present)[0], tokens[present]


def _normalized(row: np.ndarray, weight: np.ndarray, rows: int) -> np.ndarray:
    lengths = np.sqrt(np.bincount(row, weight**2, rows))
    return weight / np.where(lengths > 0, lengths, 1.0)[row]  # type: ignore[no-any-return]


def _read(dataset: Dataset, most: int) -> np.ndarray:
    """Ids of all samples, or of as many as have `most` values, drawn by a fixed rule."""
    lengths = dataset.lengths
    if lengths is None:
        samples = dataset.gather(np.zeros(1, dtype=np.int64))
        width = float(max(value[0].numel() for value in samples.values()))
    else:
        width = float(lengths.mean())
    count = min(len(dataset), max(1, int(most / width)))
    return np.sort(permute(SeedDomain.BASELINE_SAMPLES, 0, np.arange(count), len(dataset)))


def _labels(dataset: Dataset, ids: np.ndarray) -> np.ndarray:
    if dataset.labels is not None:
        return dataset.labels[ids]
    return np.concatenate([dataset.gather(chunk)["labels"].numpy() for chunk in _chunks(ids)])


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(values), _CHUNK):
        yield values[first : first + _CHUNK]
