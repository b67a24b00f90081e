"""Data of pairs of texts, such as a sentence and its translation: one tokenizer for both sides, fitted to both.

Which files hold them, and how they are read: `data/text/pair_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bigtrain.data.base import SPLITS, Dataset
from bigtrain.data.cache import Prepared, fingerprint_of
from bigtrain.data.config import VAL_FRACTION
from bigtrain.data.originals import Original
from bigtrain.data.paths import as_path
from bigtrain.data.tables.delimited import TableFormat
from bigtrain.data.text.config import LongPair, SentencePairsConfig
from bigtrain.data.text.division import hashed_order
from bigtrain.data.text.pair_files import PairFiles, are_there, find_pair_files
from bigtrain.data.text.ragged import Ragged
from bigtrain.data.text.text_files import FileState, content_hash, require_unchanged
from bigtrain.data.text.tokenized import TokenizedSplits
from bigtrain.data.text.tokenizing import (
    fit_tokenizer,
    unknown_tokens,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_SIDES = ("source", "target")
_CUT = (("train", False), ("val", True))  # of a pair of train: the split it joins, and whether it is held out


class PairDataset(Dataset):
    """Source n belongs to target n; `gather` as in `data/base.py`. `lengths`: of each pair, those of the longer one."""

    def __init__(self, source: Ragged, target: Ragged):
        self.source, self.target = source, target
        self.lengths: np.ndarray = np.maximum(source.lengths, target.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `data/base.py`. Raises IndexError for an id outside range(len(self))."""
        (source, source_lengths), (target, target_lengths) = self.source.padded(ids), self.target.padded(ids)
        return {
            "source": source,
            "source_lengths": source_lengths,
            "target": target,
            "target_lengths": target_lengths,
        }


@dataclass(frozen=True)
class _Pairs:
    """Those with text on both sides, and the line of each; `blank`: the lines of the others."""

    path: Path  # where the lines are counted
    lines: list[int]
    sources: list[str]
    targets: list[str]
    blank: list[int]

    def select(self, kept: list[bool]) -> _Pairs:
        """Those that are kept."""
        lines, sources, targets = compress(self.lines, kept), compress(self.sources, kept), compress(self.targets, kept)
        return _Pairs(self.path, list(lines), list(sources), list(targets), blank=[])


@dataclass(frozen=True)
class _PairSplits:
    """The pairs of each split, and sentences for the user about how they were split."""

    pairs: dict[str, _Pairs]
    notes: list[str]


class SentencePairs(TokenizedSplits[_PairSplits, PairDataset]):
    """Data module `sentence_pairs`; see `SentencePairsConfig`.

    Raises DataError, naming file and line, for what is missing, can't be read or is not aligned.
    """

    kind, unit, version = "pairs", "sources", 2
    split_fix = "name its files: data.{split}_name, or data.{split}_path"
    config: SentencePairsConfig

    def __init__(self, config: SentencePairsConfig, tokenizer: Tokenizer | None = None) -> None:
        files = self._files = _files_of_splits(config)
        paths = [path for found in files.values() for path in found.paths]
        states = [FileState.of(path) for path in paths]
        hashes = {split: content_hash(found.paths, config.cache_dir) for split, found in files.items()}
        source = [
            *("sentence_pairs", hashes, config.source_language, config.target_language),
            *([path.suffixes[-2:] for path in paths], config.separator, config.quotes and config.quotes.value),
            *(config.encoding, config.val_fraction),
        ]

        def read() -> _PairSplits:
            found = _read_splits(config, files)
            require_unchanged(states)
            return found

        super().__init__(config, source, read, tokenizer)

    def keyed_by(self) -> list[Any]:
        return [self.config.sequence_length, self.config.too_long.value]

    def prepare(self, texts: _PairSplits, tokenizer: Tokenizer | None) -> Prepared:
        """Arrays `<split>_<side>` and `<split>_<side>_offsets`; of blank or long pairs, the count and first line."""
        documents = {split: read.sources + read.targets for split, read in texts.pairs.items()}
        tokenizer = tokenizer or fit_tokenizer(self.config, documents)
        arrays: dict[str, np.ndarray] = {}
        streams, too_long = {}, {}
        for split, read in texts.pairs.items():
            source, target = (Ragged.framed(side, tokenizer) for side in (read.sources, read.targets))
            streams[split] = np.concatenate((source.stream, target.stream))
            over = np.maximum(source.lengths, target.lengths) > self.config.sequence_length
            too_long[split] = _counted([read.lines[index] for index in np.flatnonzero(over)])
            if over.any():
                source, target = _shortened(self.config, read.path, too_long[split], over, source, target)
            arrays |= {f"{split}_source": source.stream, f"{split}_source_offsets": source.offsets}
            arrays |= {f"{split}_target": target.stream, f"{split}_target_offsets": target.offsets}
        length = self.config.sequence_length
        meta = {
            "tokenizer": tokenizer.to_json(),
            "unknown": unknown_tokens(documents, streams, tokenizer),
            "blank": {split: _counted(read.blank) for split, read in texts.pairs.items()},
            "notes": texts.notes,
            "too_long": too_long,
            "fingerprint": fingerprint_of(tokenizer.to_json(), length, list(arrays), *arrays.values()),
        }
        return Prepared(meta, arrays)

    def datasets(self, prepared: Prepared) -> dict[str, PairDataset]:
        arrays = prepared.arrays
        return {
            split: PairDataset(*(Ragged(arrays[name], arrays[f"{name}_offsets"]) for name in names))
            for split, names in ((split, [f"{split}_{side}" for side in ("source", "target")]) for split in SPLITS)
            if names[0] in arrays
        }

    def passes(self, texts: _PairSplits) -> Callable[[], Iterator[Original]]:
        """The sources alone: one that was learnt from is no test, whatever its translation there."""
        return lambda: (
            Original(split, source, None, f"{read.path}:{line}")
            for split, read in texts.pairs.items()
            for line, source in zip(read.lines, read.sources, strict=True)
        )

    def cut(self, prepared: Prepared) -> dict[str, int]:
        is_cut = self.config.too_long is LongPair.truncate
        return {split: count for split, (count, *_) in prepared.meta["too_long"].items()} if is_cut else {}

    def notes(self, prepared: Prepared) -> Iterator[str]:
        """Of pairs that are not used as they stand in the files."""
        yield from (f"{note}." for note in prepared.meta["notes"])
        fate = {LongPair.truncate: "cut there", LongPair.drop: "left out"}.get(self.config.too_long)
        reasons = {
            "blank": "have no text on one side and are left out",
            "too_long": f"have a side of over data.sequence_length={self.config.sequence_length} tokens and are {fate}",
        }
        for name, reason in reasons.items():
            for split, (count, *first) in prepared.meta[name].items():
                if count:
                    where = f"{self._files.get(split, self._files['train']).paths[0]}:{first[0]}"
                    yield f"{count:,} pair(s) of {split} {reason}; the first is at {where}."


def _files_of_splits(config: SentencePairsConfig) -> dict[str, PairFiles]:
    """Without val where it has none: it is cut from train then."""
    languages, form = (config.source_language, config.target_language), TableFormat.of(config)
    if config.path is not None and as_path(config.path).is_file():
        return {"train": PairFiles([as_path(config.path)], languages, form)}
    if config.path is not None:
        stems = {"train": config.train_name, "val": config.val_name, "test": config.test_name}
        return {
            split: find_pair_files(stem, f"data.path={config.path}, data.{split}_name", languages, form)
            for split, stem in ((split, f"{config.path}/{name}") for split, name in stems.items() if name is not None)
            if split != "val" or config.val_name != SentencePairsConfig.val_name or are_there(stem, languages)
        }
    paths = {"train": config.train_path, "val": config.val_path, "test": config.test_path}
    return {
        split: find_pair_files(path, f"data.{split}_path={path}", languages, form)
        for split, path in paths.items()
        if path is not None
    }


def _read_splits(config: SentencePairsConfig, files: dict[str, PairFiles]) -> _PairSplits:
    """Every split; val is cut from train where it has no files."""
    notes: list[str] = []
    pairs = {split: _read(files[split], notes) for split in SPLITS if split in files}
    if "val" in pairs or "train" not in pairs:
        return _PairSplits(pairs, notes)
    fraction, train = config.val_fraction or VAL_FRACTION, pairs.pop("train")
    distinct = list(dict.fromkeys(train.sources))  # copies of a source stay together, whatever their translations
    count = max(1, round(fraction * len(distinct)))
    if count >= len(distinct):
        raise DataError.of(
            "DATA-EMPTY-SPLIT",
            f"there are no files for val, and {train.path} has too few pairs to hold any out",
            cause=f"{len(distinct)} different source(s), data.val_fraction={fraction}",
            fix="give more pairs, a lower data.val_fraction, or files for val",
        )
    held_out = {distinct[index] for index in hashed_order(distinct)[-count:]}
    parts = {split: train.select([(one in held_out) is is_val for one in train.sources]) for split, is_val in _CUT}
    notes.append(
        f"there are no files for val: {len(parts['val'].lines):,} of the {len(train.lines):,} training pairs are held "
        f"out for it (data.val_fraction={fraction})"
    )
    parts["train"].blank.extend(train.blank)
    return _PairSplits({**parts, **pairs}, notes)


def _read(files: PairFiles, notes: list[str]) -> _Pairs:
    pairs = _Pairs(files.paths[0], [], [], [], [])
    for line, source, target in files.read(notes):
        if not (source.strip() and target.strip()):
            pairs.blank.append(line)
            continue
        pairs.lines.append(line)
        pairs.sources.append(source.strip())
        pairs.targets.append(target.strip())
    if not pairs.lines:
        raise DataError.of(
            "DATA-EMPTY",
            f"there are no pairs in {' and '.join(map(str, files.paths))}",
            cause=f"{len(pairs.blank):,} line(s), none with text on both sides",
            fix="give files with text in them",
        )
    return pairs


def _counted(lines: list[int]) -> list[int]:
    """How many, and the first; in JSON's types."""
    return [len(lines), *lines[:1]]


def _shortened(
    config: SentencePairsConfig, path: Path, count: list[int], over: np.ndarray, source: Ragged, target: Ragged
) -> tuple[Ragged, Ragged]:
    """What `too_long` makes of pairs that are."""
    if config.too_long is LongPair.refuse:
        raise DataError.of(
            "DATA-LENGTH",
            f"{count[0]:,} pair(s) have a side of over data.sequence_length={config.sequence_length} tokens",
            cause=f"the first is at {path}:{count[1]}",
            fix="raise data.sequence_length, or data.too_long=truncate, or drop",
        )
    if config.too_long is LongPair.truncate:
        return source.truncated(config.sequence_length), target.truncated(config.sequence_length)
    if over.all():
        raise DataError.of(
            "DATA-LENGTH",
            f"every pair in {path} has a side of over data.sequence_length={config.sequence_length} tokens",
            fix="raise data.sequence_length, or data.too_long=truncate",
        )
    kept = np.flatnonzero(~over)
    return source.select(kept), target.select(kept)
