"""Data of labelled texts of different lengths: tokenised, described; and the dataset of one split.

Where the texts come from: `data/text/text_classification.py` and `data/text/topics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import SPLITS, Dataset
from bigtrain.data.cache import Prepared, fingerprint_of
from bigtrain.data.originals import Original
from bigtrain.data.text.augment import augmentation
from bigtrain.data.text.class_division import LabelledText
from bigtrain.data.text.config import SentencesConfig, TooLong
from bigtrain.data.text.ragged import Ragged
from bigtrain.data.text.tokenized import TokenizedSplits
from bigtrain.data.text.tokenizing import (
    fit_to_texts,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_MANY_UNKNOWN = 0.1  # share of the tokens of a split, from which on it is said


@dataclass(frozen=True)
class LabelledSplits:
    """The texts of each split, the names of the classes, and sentences for the user about what was left out."""

    splits: dict[str, list[LabelledText]]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Sentences(Dataset):
    """Tokens of each text, framed, and its label; `lengths` (N,) int64 are those with the frame."""

    def __init__(self, tokens: Ragged, labels: np.ndarray):
        self._tokens = tokens
        self._labels = labels
        self.lengths = tokens.lengths

    def __len__(self) -> int:
        return len(self._tokens)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        tokens_BT, lengths_B = self._tokens.padded(ids)
        return {"tokens": tokens_BT, "lengths": lengths_B, "labels": torch.from_numpy(self._labels[ids])}


class SentenceSplits(TokenizedSplits[LabelledSplits, Sentences]):
    """The sentences of each split, and the names of their classes."""

    kind, unit, version = "sentences", "texts", 2
    split_fix = "give {split} a part in data.split, or a file of its own with labels"
    config: SentencesConfig

    def __init__(
        self,
        config: SentencesConfig,
        source: Any,
        read: Callable[[], LabelledSplits],
        tokenizer: Tokenizer | None,
    ) -> None:
        super().__init__(config, source, read, tokenizer)
        self.augment = augmentation(config.augment)

    def keyed_by(self) -> list[Any]:
        return [self.config.sequence_length, self.config.too_long.value]

    def prepare(self, texts: LabelledSplits, tokenizer: Tokenizer | None) -> Prepared:
        """Arrays `<split>_tokens`, `<split>_offsets` and `<split>_labels`."""
        config = self.config
        of_split = {split: [one.text for one in part] for split, part in texts.splits.items()}
        tokenizer = tokenizer or fit_to_texts(config, of_split["train"], end_of_text=True, unknown=True)
        arrays: dict[str, np.ndarray] = {}
        longer: dict[str, np.ndarray] = {}
        for split, part in texts.splits.items():
            tokens = Ragged.framed(of_split[split], tokenizer)
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
            "names": list(texts.names),
            "cut": {split: len(lengths) for split, lengths in longer.items()},
            "notes": [*texts.notes, *_note_of_cuts(longer, config), *_note_of_unknown(arrays, tokenizer)],
            "fingerprint": fingerprint_of(tokenizer.to_json(), list(texts.names), list(arrays), *arrays.values()),
        }
        return Prepared(meta, arrays)

    def datasets(self, prepared: Prepared) -> dict[str, Sentences]:
        arrays = prepared.arrays
        return {
            split: Sentences(Ragged(arrays[f"{split}_tokens"], arrays[f"{split}_offsets"]), arrays[f"{split}_labels"])
            for split in SPLITS
            if f"{split}_labels" in arrays
        }

    def facts(self, prepared: Prepared) -> dict[str, Any]:
        return {"num_classes": len(prepared.meta["names"]), "labels": tuple(prepared.meta["names"])}

    def passes(self, texts: LabelledSplits) -> Callable[[], Iterator[Original]]:
        return lambda: (
            Original(split, one.text, one.label, one.place) for split in SPLITS for one in texts.splits.get(split, ())
        )

    def cut(self, prepared: Prepared) -> dict[str, int]:
        return {split: prepared.meta["cut"].get(split, 0) for split in self._datasets}

    def notes(self, prepared: Prepared) -> list[str]:
        notes: list[str] = prepared.meta["notes"]
        return notes


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
