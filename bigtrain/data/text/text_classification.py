"""Labelled texts from tables: which files the settings mean, what the labels are called, which rows are usable. How a
table is read is `data/text/tables.py`'s business; tokenising and caching are `data/text/sentences.py`'s.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from bigtrain.data.base import DataSpec
from bigtrain.data.progress import status_line
from bigtrain.data.text.config import EmptyText, TextClassificationConfig
from bigtrain.data.text.sentences import LabelledSplits, LabelledText, Sentences, SentenceSplits, divide_by_class
from bigtrain.data.text.tables import SUFFIXES, is_position, read_rows
from bigtrain.data.text.text_files import broken_file, content_hash
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_NAMES = {"train": ("train",), "val": ("dev", "val", "valid", "validation"), "test": ("test",)}
_MANY_ROWS = 10  # from here on, more labels than half the rows are a mistake
_SHOWN = 10  # labels or places listed in a message

Rows = list[tuple[str, str, str]]  # place ("reviews.tsv:17"), text, label


class TextClassification:
    """Data module `text_classification`; see `TextClassificationConfig`.

    Raises DataError, naming file and line, for what can't be read, and for labels that don't fit.
    """

    def __init__(self, config: TextClassificationConfig, tokenizer: Tokenizer | None = None):
        files = files_of_splits(config)
        _require_train(config, files, tokenizer)
        hashes = {split: [content_hash([path], config.cache_dir), path.suffixes[-2:]] for split, path in files.items()}
        columns = [config.text_column, config.label_column]
        source = ["text_classification", hashes, columns, list(config.labels), config.empty_text.value, config.split]
        splits = SentenceSplits(config, source, lambda: _read(config, files), tokenizer)
        self.spec: DataSpec = splits.spec
        self.tokenizer: Tokenizer = splits.tokenizer
        self.augment = splits.augment
        self.originals = splits.originals
        self._splits = splits

    def dataset(self, split: str) -> Sentences:
        """See `data/base.py`."""
        return self._splits.dataset(split)


def files_of_splits(config: TextClassificationConfig) -> dict[str, Path]:
    """The file of each split; "path" for one that is still to be divided. Raises DataError for what is not there."""
    if not config.path:
        given = {split: getattr(config, f"{split}_path") for split in _NAMES}
        return {split: _expanded(path) for split, path in given.items() if path}
    place = _expanded(config.path)
    if not place.is_dir():
        return {"path": place}
    tables = sorted(path for path in place.iterdir() if path.name.endswith(SUFFIXES))
    found: dict[str, Path] = {}
    for split, stems in _NAMES.items():
        named = [path for path in tables if path.name.split(".")[0] in stems]
        if len(named) > 1:
            raise DataError.of(
                "DATA-AMBIGUOUS",
                f"{place} has more than one file for {split}: {', '.join(path.name for path in named)}",
                fix="give the ones you mean: data.path=null data.train_path=... data.val_path=... data.test_path=...",
            )
        if named:
            found[split] = named[0]
    return found


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of an unknown user: reported as a file that is not there
        return Path(path)


def _require_train(config: TextClassificationConfig, files: dict[str, Path], tokenizer: Tokenizer | None) -> None:
    """A checkpoint's tokenizer and labels can do without training texts; nothing else can."""
    missing = (
        [] if "path" in files or (tokenizer is not None and config.labels and files) else {"train", "val"} - set(files)
    )
    if missing:
        raise DataError.of(
            "DATA-MISSING",
            f"data.path={config.path} has no file for {' and '.join(sorted(missing))}",
            cause=f"a directory has train.*, dev.* and perhaps test.*, of {', '.join(SUFFIXES)}",
            fix="name the files so, or give them: data.path=null data.train_path=... data.val_path=...",
        )


def _read(config: TextClassificationConfig, files: dict[str, Path]) -> LabelledSplits:
    empty: list[str] = []
    rows = {}
    with status_line("Reading texts") as report:
        for number, (split, path) in enumerate(files.items()):
            report(number / len(files))
            rows[split] = _usable_rows(config, path, empty)
    seen = rows.get("train") or rows.get("path") or []
    found = {label for _, _, label in seen}
    if len(found) == 1:
        raise DataError.of(
            "DATA-LABELS",
            f"{_file_of(seen)} has one class only, {min(found)!r}",
            cause="there is nothing to tell apart",
            fix="give texts of two classes at least, or another data.label_column",
        )
    names = tuple(config.labels) or _names_of(seen, config)
    numbers = {name: number for number, name in enumerate(names)}
    if not any(map(_is_number, names)):
        numbers |= {str(number): number for number in range(len(names))}
    splits = {split: [_labelled(row, numbers, names) for row in part] for split, part in rows.items()}
    notes = [f"rows without text are left out: {_listed(empty)}"] if empty else []
    present = {numbers[label] for label in found}
    if absent := [name for name in names if seen and numbers[name] not in present]:
        notes.append(f"no training text is of the class {_listed(absent)}; data.labels names it")
    if "path" in splits:
        splits = divide_by_class(splits["path"], config.split)
    return LabelledSplits(splits, names, tuple(notes))


def _usable_rows(config: TextClassificationConfig, path: Path, empty: list[str]) -> Rows:
    """Rows with a text and a label; the places of rows without text are added to `empty`."""
    rows: Rows = []
    columns = {"data.text_column": config.text_column, "data.label_column": config.label_column}
    for line, (text, label) in read_rows(path, columns):
        if not label.strip():
            raise broken_file(path, "its label is empty", "give each row a label, or remove the row", line)
        if text.strip():
            rows.append((f"{path}:{line}", text, label.strip()))
        elif config.empty_text is EmptyText.refuse:
            fix = "remove the row, or data.empty_text=drop leaves such rows out"
            raise broken_file(path, "its text is empty, and data.empty_text=refuse", fix, line)
        else:
            empty.append(f"{path}:{line}")
    if not rows:
        raise broken_file(path, "all its texts are empty", "give a file with text in it, or another data.text_column")
    return rows


def _names_of(rows: Rows, config: TextClassificationConfig) -> tuple[str, ...]:
    """The labels that occur: numbers in their order, else words sorted."""
    counts = Counter(label for _, _, label in rows)
    place, _, first = rows[0]
    if (
        is_position(config.label_column)
        and counts[first] == 1
        and all(counts[label] > 1 for label in counts if label != first)
    ):
        raise DataError.of(
            "DATA-LABELS",
            f"{place} has the label {first!r}, which no other row has: it looks like the name of a column",
            fix="give names instead of positions: data.text_column=... data.label_column=...; or, if it is a class "
            "like the others, list all: data.labels=[...]",
        )
    if len(rows) >= _MANY_ROWS and len(counts) > len(rows) // 2:
        raise DataError.of(
            "DATA-LABELS",
            f"{_file_of(rows)} has {len(counts):,} different labels in {len(rows):,} rows",
            cause=f"for instance {_listed(list(counts))}",
            fix="give data.label_column the column with the class",
        )
    return tuple(sorted(counts, key=int if all(map(_is_number, counts)) else str))


def _labelled(row: tuple[str, str, str], numbers: dict[str, int], names: tuple[str, ...]) -> LabelledText:
    place, text, label = row
    if label not in numbers:
        raise DataError.of(
            "DATA-LABELS",
            f"{place} has the label {label!r}, which is not one of the classes",
            cause=f"the classes are {_listed(list(names))}: those of data.labels, or else those that train has",
            fix="correct the label, or give all classes: data.labels=[...]",
        )
    return LabelledText(text, numbers[label], place)


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", label) is not None


def _file_of(rows: Rows) -> str:
    return rows[0][0].rpartition(":")[0]


def _listed(words: list[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN:,} more" if len(words) > _SHOWN else "")
