"""Labelled texts of different lengths: tokenised, cached and described; and the dataset of one split. Where the texts
come from is the business of `data/text/text_classification.py` and `data/text/topics.py`, which share all of this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigtrain.config.kinds import Audit
from bigtrain.data.base import SPLITS, Dataset, DataSpec
from bigtrain.data.cache import Prepared, fingerprint_of
from bigtrain.data.originals import Original, Originals, ReadOnce
from bigtrain.data.text.augment import augmentation
from bigtrain.data.text.class_division import LabelledText
from bigtrain.data.text.config import SentencesConfig, TooLong
from bigtrain.data.text.ragged import Ragged
from bigtrain.data.text.tokenizing import (
    find_or_prepare,
    fit_to_texts,
    fitted_to,
    given_tokenizer,
    warn_of_small_vocabulary,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

_VERSION = 2  # of what this file and the readers make of a source; part of every cache key
_MANY_UNKNOWN = 0.1  # share of the tokens of a split, from which on it is said


@dataclass(frozen=True)
class LabelledSplits:
    """The texts of each split, the names of the classes, and sentences for the user about what was left out."""

    splits: dict[str, list[LabelledText]]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class SentenceSplits:
    """The sentences of each split, their DataSpec and tokenizer.

    `source` names everything that `read` depends on; `read` is called only if its texts are not in the cache. A given
    `tokenizer`, or the one that the settings name a file of, is used as it is.
    """

    def __init__(
        self, config: SentencesConfig, source: Any, read: Callable[[], LabelledSplits], tokenizer: Tokenizer | None
    ):
        fits = tokenizer is None
        tokenizer = given_tokenizer(config, tokenizer)
        texts = ReadOnce(read, keep=config.audit is not Audit.off)
        prepared = find_or_prepare(
            "sentences",
            config,
            [_VERSION, source, config.sequence_length, config.too_long.value],
            lambda tokenizer: _prepare(config, texts(), tokenizer),
            tokenizer,
        )
        meta, arrays = prepared.meta, prepared.arrays
        self.tokenizer: Tokenizer = tokenizer or tokenizer_from_json(meta["tokenizer"])
        self._datasets = {
            split: Sentences(Ragged(arrays[f"{split}_tokens"], arrays[f"{split}_offsets"]), arrays[f"{split}_labels"])
            for split in SPLITS
            if f"{split}_labels" in arrays
        }
        self.spec = DataSpec(
            kind="sentences",
            fingerprint=meta["fingerprint"],
            sizes={split: len(sentences) for split, sentences in self._datasets.items()},
            vocab_size=self.tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            special_tokens=self.tokenizer.special_ids,
            num_classes=len(meta["names"]),
            labels=tuple(meta["names"]),
        )
        self.augment = augmentation(config.augment)
        self.originals = Originals(
            key=fingerprint_of(_VERSION, source),
            unit="texts",
            open=lambda: _originals_of(texts.again()),
            tokenizer=fitted_to(config, fits),
            cut={split: meta["cut"].get(split, 0) for split in self._datasets},
        )
        for note in meta["notes"]:
            warnings.warn(note, stacklevel=2)
        if fits:
            warn_of_small_vocabulary(config, self.tokenizer)

    def dataset(self, split: str) -> Sentences:
        """See `data/base.py`."""
        if split not in self._datasets:
            raise DataError.of(
                "DATA-SPLIT",
                f"there is no {split} split",
                cause=f"the splits are: {', '.join(self._datasets)}",
                fix=f"give {split} a part in data.split, or a file of its own with labels",
            )
        return self._datasets[split]


class Sentences(Dataset):
    """Tokens of each text, framed, and its label; `lengths` (N,) int64 are those with the frame."""

    def __init__(self, tokens: Ragged, labels: np.ndarray):
        self._tokens = tokens
        self._labels = labels
        self.lengths = tokens.lengths

    def __len__(self) -> int:
        return len(self._tokens)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `data/base.py`."""
        tokens_BT, lengths_B = self._tokens.padded(ids)
        return {"tokens": tokens_BT, "lengths": lengths_B, "labels": torch.from_numpy(self._labels[ids])}


def _originals_of(labelled: LabelledSplits) -> Callable[[], Iterator[Original]]:
    return lambda: (
        Original(split, one.text, one.label, one.place) for split in SPLITS for one in labelled.splits.get(split, ())
    )


def _prepare(config: SentencesConfig, labelled: LabelledSplits, tokenizer: Tokenizer | None) -> Prepared:
    texts = {split: [one.text for one in part] for split, part in labelled.splits.items()}
    tokenizer = tokenizer or fit_to_texts(config, texts["train"], end_of_text=True, unknown=True)
    arrays: dict[str, np.ndarray] = {}
    longer: dict[str, np.ndarray] = {}
    for split, part in labelled.splits.items():
        tokens = Ragged.framed(texts[split], tokenizer)
        over = np.flatnonzero(tokens.lengths > config.sequence_length)
        if len(over):
            if config.too_long is TooLong.refuse:
                raise _too_long(part[over[0]].place, int(tokens.lengths[over[0]]), len(over), config)
            longer[split] = tokens.lengths[over]
            tokens = tokens.truncated(config.sequence_length)
        arrays[f"{split}_tokens"], arrays[f"{split}_offsets"] = tokens.stream, tokens.offsets
        arrays[f"{split}_labels"] = np.array([one.label for one in part], dtype=np.int64)
    meta = {
        "tokenizer": tokenizer.to_json(),
        "names": list(labelled.names),
        "cut": {split: len(lengths) for split, lengths in longer.items()},
        "notes": [*labelled.notes, *_note_of_cuts(longer, config), *_note_of_unknown(arrays, tokenizer)],
        "fingerprint": fingerprint_of(tokenizer.to_json(), list(labelled.names), list(arrays), *arrays.values()),
    }
    return Prepared(meta, arrays)


def _too_long(place: str, length: int, count: int, config: SentencesConfig) -> DataError:
    return DataError.of(
        "DATA-LONG",
        f"{place} has {length:,} tokens, over data.sequence_length={config.sequence_length}",
        cause=f"{count:,} text(s) of its split are too long, and data.too_long=refuse",
        fix=f"data.too_long=truncate, or data.sequence_length={length}",
    )


def _note_of_unknown(arrays: dict[str, np.ndarray], tokenizer: Tokenizer) -> list[str]:
    if tokenizer.unknown is None:
        return []
    streams = {split: arrays[f"{split}_tokens"] for split in SPLITS if f"{split}_tokens" in arrays}
    shares = {split: float(np.mean(stream == tokenizer.unknown)) for split, stream in streams.items() if len(stream)}
    if max(shares.values(), default=0.0) < _MANY_UNKNOWN:
        return []
    parts = " and ".join(f"{share:.0%} of the tokens of {split}" for split, share in shares.items() if share)
    return [
        f"the tokenizer has no token for part of the text: {parts} are unknown, and the same to the model; "
        "data.tokenizer=byte has no unknown ones"
    ]


def _note_of_cuts(longer: dict[str, np.ndarray], config: SentencesConfig) -> list[str]:
    if not longer:
        return []
    counts = ", ".join(f"{len(lengths):,} of {split}" for split, lengths in longer.items())
    longest = max(int(lengths.max()) for lengths in longer.values())
    return [
        f"texts are cut to data.sequence_length={config.sequence_length} tokens: {counts}; the longest has {longest:,}"
    ]
