"""What a data module gives: datasets for train, val and test, and a DataSpec that stands in for them in a checkpoint.

`Dataset` and `DataModule` are the base classes of all data, plug-ins' included. Samples are gathered in batches, never
one by one: `dataset.gather(ids)` is one vectorised read of a tensor or a memory map. `data/order.py` decides which ids
make up a step; the task turns samples into inputs.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from bigtrain.data.originals import Originals
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.registry import inheriting

SPLITS = ("train", "val", "test")

Samples = dict[str, Tensor]
"""Name → (B, …), as `Dataset.gather` returns them."""


@dataclass(frozen=True)
class DataSpec:
    """Facts about the data that models, tasks and later readers of a checkpoint need. JSON in and out."""

    kind: str  # `DataConfig.provides`: "text", "sentences", "pairs", "images", "vectors"
    fingerprint: str  # of the source bytes and every setting that shapes the samples
    sizes: dict[str, int]  # samples per split
    vocab_size: int | None = None
    sequence_length: int | None = None  # tokens T per sample; of sentences and pairs, those of the longest allowed
    special_tokens: dict[str, int] = field(default_factory=dict)  # "end_of_text", "begin", "separator", "mask": id
    bytes_per_token: dict[str, float] = field(default_factory=dict)  # per split; UTF-8 bytes of text per scored token
    input_shape: tuple[int, ...] | None = None  # (channels, height, width) of images, (features,) of vectors
    num_classes: int | None = None
    labels: tuple[str, ...] = ()  # class names, in order
    values: tuple[str, ...] = ()  # names of the K values to predict, if the target is values
    value_normalization: dict[str, list[float]] = field(default_factory=dict)  # their "mean" and "std" in training
    # "mean" and "std" of the training split: per channel, of x / 255; or per feature of vectors.
    normalization: dict[str, list[float]] = field(default_factory=dict)
    # Loss that no model can beat on average: nats per scored target, or mean square error of standardised values.
    optimal_loss: float | None = None
    optimal_loss_error: float | None = None  # its standard error; None: it is exact, or unknown
    optimal_accuracy: float | None = None  # share of right answers that no model can beat on average
    optimal_accuracy_error: float | None = None  # its standard error; None: it is exact, or unknown

    @property
    def mask_id(self) -> int:
        """The token that hides another one: the tokenizer's own, or the id after its last."""
        return self.special_tokens.get("mask", self.vocab_size or 0)

    @property
    def num_embeddings(self) -> int:
        """Tokens that a model of masked text reads: the vocabulary and the mask."""
        return max(self.vocab_size or 0, self.mask_id + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> DataSpec:
        """Inverse of `to_json`. Raises TypeError or ValueError for what no DataSpec has."""
        if not isinstance(document, dict):
            raise TypeError("the data's facts are not a JSON object")
        keys = ("input_shape", "labels", "values")
        tuples = {key: tuple(document[key]) for key in keys if document.get(key) is not None}
        spec = cls(**{**document, **tuples})
        counts = [
            spec.vocab_size,
            spec.sequence_length,
            spec.num_classes,
            *(spec.input_shape or ()),
            *spec.sizes.values(),
        ]
        if any(type(count) is not int or not 0 <= count < 2**40 for count in counts if count is not None):
            raise ValueError("sizes and shapes must be whole numbers from 0 to 2**40")
        if max(spec.vocab_size or 0, spec.num_classes or 0) > 2**24:
            raise ValueError("over 16,777,216 tokens or classes")
        if spec.values and {len(numbers) for numbers in spec.value_normalization.values()} != {len(spec.values)}:
            raise ValueError("value_normalization does not have a number for each of the values")
        return spec


@dataclass(frozen=True)
class Source:
    """One of several that the samples of a dataset come from: `size` ids that follow each other.

    `weight`, over the sum of all, is its part of what is trained on, and of what an evaluation says.
    """

    name: str
    size: int
    weight: float


class Dataset(ABC):
    """The samples of one split, N of them."""

    lengths: np.ndarray | None = None
    """(N,) tokens of each sample, where samples differ in length: `data/order.py` makes batches of like lengths."""
    labels: np.ndarray | None = None
    """(N,) int64 class of each sample, where they are known without reading the samples."""
    contiguous: bool = False
    """Whether samples are the windows of one long text, each beginning where the one before it ends."""
    sources: tuple[Source, ...] = ()
    """Where they come from several: each one's samples, in this order. `data/order.py` mixes them by weight."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def gather(self, ids: np.ndarray) -> Samples:
        """The samples with these ids (B,), in this order, duplicates included.

        text        `tokens` (B, T+1) int64 and, where not every position is a target, `scored` (B, T) bool: whether
                    tokens[:, t+1] is one; where a model is not to attend across documents, also `documents` (B, T)
                    int64: which document of the window tokens[:, t] belongs to
        sentences   `tokens` (B, T) int64, padded with 0 on the right to the longest of them; `lengths` (B,) int64
        pairs       `source` (B, S) and `target` (B, T), padded likewise; `source_lengths` and `target_lengths` (B,)
        images      `images` (B, C, H, W) uint8
        vectors     `vectors` (B, F) fp32

        With a target beside the inputs, also `labels` (B,) int64 of classes, or `values` (B, K) fp32. Raises DataError,
        naming file and sample id, for a value that can't be read.
        """


class _OfSource(Dataset):
    """The samples of one source of a dataset."""

    def __init__(self, dataset: Dataset, first: int, size: int):
        self._dataset, self._first, self._size = dataset, first, size
        self.lengths = None if dataset.lengths is None else dataset.lengths[first : first + size]

    def __len__(self) -> int:
        return self._size

    def gather(self, ids: np.ndarray) -> Samples:
        return self._dataset.gather(self._first + np.asarray(ids))


def by_source(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """The samples of each source by themselves, with its name; where there are no several, all, with the name ""."""
    firsts = np.cumsum([0, *(source.size for source in dataset.sources)]).tolist()
    parts = zip(dataset.sources, firsts, strict=False)
    return [(source.name, _OfSource(dataset, first, source.size)) for source, first in parts] or [("", dataset)]


def parts_of_sources(sources: Sequence[Source], size: int) -> list[tuple[int, int]]:
    """Of each source the first id and how many of its samples to take, so that there are about `size` together, in the
    proportion of the weights; one at least. What a source is short of, the others supply.
    """
    counts, room, others = [0] * len(sources), float(size), list(range(len(sources)))
    while others:
        weight = sum(sources[index].weight for index in others)
        shares = {index: room * sources[index].weight / weight for index in others}
        short = [index for index in others if shares[index] >= sources[index].size]
        for index in short or others:
            counts[index] = sources[index].size if short else max(1, int(shares[index]))
            room -= counts[index]
        others = [index for index in others if short and index not in short]
    firsts = np.cumsum([0, *(source.size for source in sources)]).tolist()
    return list(zip(firsts, counts, strict=False))


def sources_among(sources: Sequence[Source], ids: np.ndarray) -> tuple[Source, ...]:
    """The sources of the samples with these ids, which ascend and of each source have one at least."""
    ends = np.cumsum([source.size for source in sources])
    counts = np.diff(np.searchsorted(ids, ends, side="left"), prepend=0)
    return tuple(replace(source, size=int(count)) for source, count in zip(sources, counts, strict=True))


class Augmentation(ABC):
    """Random changes of training samples: a pure function of them and their `keys` (`data/loader.py`)."""

    needs_partners: bool = False
    """Whether it reads another sample beside each, under the names `partner_…`."""

    @abstractmethod
    def __call__(self, samples: Samples) -> Samples:
        """The changed samples; those given stay as they are."""


class DataModule(ABC):
    """Built from its settings by `factory(config, tokenizer=None)`. Raises DataError, a sentence, for data that is
    missing, damaged or empty.

    `tokenizer` is given when a checkpoint brings its own; it is then used as it is, never fitted again.
    """

    spec: DataSpec
    tokenizer: Tokenizer | None = None
    """What turns text into tokens; None for data without tokens, or without text behind them."""
    augment: Augmentation | None = None
    """Changes training samples, if the settings ask for any change."""
    originals: Originals | None = None
    """The texts before they were cut into tokens, for the audit; None for data that isn't text."""

    @abstractmethod
    def dataset(self, split: str) -> Dataset:
        """The samples of a split that `spec.sizes` names."""


def as_data_module(data: Any) -> DataModule:
    """A plug-in's data module as an instance of `DataModule`, with datasets that are instances of `Dataset`."""
    known = type(data)
    dataset = lambda self, split: inheriting(known.dataset(self, split), Dataset)  # noqa: E731
    found: DataModule = inheriting(data, DataModule, dataset=dataset)
    return found
