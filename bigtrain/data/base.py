"""What a data module gives: datasets for train, val and test, and a DataSpec that stands in for them in a checkpoint.

Samples are gathered in batches, never one by one: `dataset.gather(ids)` is one vectorised read of a tensor or a
memory map. Which ids make up a step: `data/order.py`. Samples become inputs in the task's `collate`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from bigtrain.data.tokenizers.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSpec:
    """Facts about the data that models, tasks and later readers of a checkpoint need. JSON in and out."""

    kind: str  # what DataConfig.provides said: "text", "sentences", "pairs", "images", "vectors"
    fingerprint: str  # of the source bytes and every setting that shapes the samples
    sizes: dict[str, int]  # samples per split
    vocab_size: int | None = None
    sequence_length: int | None = None  # tokens T per sample; of sentences and pairs, those of the longest allowed
    special_tokens: dict[str, int] = field(default_factory=dict)  # "end_of_text", "begin", "separator", "mask": id
    bytes_per_token: dict[str, float] = field(default_factory=dict)  # per split; UTF-8 bytes of text per scored token
    input_shape: tuple[int, ...] | None = None  # (channels, height, width) of images, (features,) of vectors
    num_classes: int | None = None
    labels: tuple[str, ...] = ()  # class names, in order
    values: tuple[str, ...] = ()  # names of the K values to predict, where the target is values
    value_normalization: dict[str, list[float]] = field(default_factory=dict)  # their "mean" and "std" in training
    # "mean" and "std" of the training split: per channel, of x / 255; or per feature of vectors.
    normalization: dict[str, list[float]] = field(default_factory=dict)
    # That no model can beat on average: nats per scored target, or the mean square error of standardised values.
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


class Dataset(Protocol):
    """Samples of one split.

    `gather` returns, for text, `tokens` (B, T+1) int64 and, where not every position counts as a target,
    `scored` (B, T) bool: whether tokens[:, t+1] is one. For sentences, `tokens` (B, T) int64, padded with 0 on the
    right to the longest of them, their `lengths` (B,) int64, and `labels` (B,) int64. For pairs, `source` (B, S) and
    `target` (B, T), padded likewise, with `source_lengths` and `target_lengths`. For images, `images` (B, C, H, W)
    uint8 and `labels`; for vectors, `vectors` (B, F) fp32 and `labels`. Where the target is values, `values` (B, K)
    fp32 stand in place of `labels`. A value that can't be read raises DataError naming file and sample id.

    Where samples differ in length, `lengths`, an array (N,), has the tokens of each: `data/order.py` batches by it.
    Where they are the windows of one long text, each going on where the one before it ends, `contiguous` is True.
    """

    def __len__(self) -> int: ...

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """The samples with these ids, in this order, duplicates included."""
        ...


class DataModule(Protocol):
    """Built from its settings alone: `factory(config, tokenizer=None)`.

    `tokenizer` is given when a checkpoint brings its own; it is then used as it is, never fitted again.
    It may have an `augment`, samples → samples, for training only: a function of the samples and their keys.
    Raises DataError with a sentence for data that is missing, damaged or empty.
    """

    spec: DataSpec
    tokenizer: Tokenizer | None

    def dataset(self, split: str) -> Dataset:
        """The samples of train, val or test."""
        ...
