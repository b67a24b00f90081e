"""Labelled texts from tables: what the labels are called, which rows and splits are usable. Which files the settings
mean: `data/text/table_files.py`; how a table is read: `data/tables/rows.py`; which split a text joins:
`data/text/class_division.py`; tokenising and caching: `data/text/sentences.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bigtrain.data.config import VAL_FRACTION
from bigtrain.data.tables.delimited import ColumnMissing, TableFormat, is_position
from bigtrain.data.tables.rows import Table, read_rows
from bigtrain.data.text import labels
from bigtrain.data.text.class_division import LabelledText, Parts, absent_classes, divide_by_class, fractions_of
from bigtrain.data.text.config import COLUMN_JOINT, EmptyText, TextClassificationConfig
from bigtrain.data.text.sentences import LabelledSplits, SentenceSplits
from bigtrain.data.text.table_files import files_of_splits
from bigtrain.data.text.text_files import FileState, broken_file, content_hash, require_unchanged
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError
from bigtrain.tracking.status_line import status_line

_VERSION = 2  # of how a table is read; part of the cache key
_MANY_ROWS = 10  # from here on, more labels than half the rows are a mistake
_SHOWN = 10  # labels or places listed in a message
_LOOKED_AT_ROWS = 1000  # to see whether the first one is a header
_LONGEST_NAME = 40  # of a column, in characters
_LABEL = "data.label_column"

Rows = list[tuple[str, str, str]]  # place ("reviews.tsv:17"), text, label


class TextClassification(SentenceSplits):
    """Data module `text_classification`; see `TextClassificationConfig`.

    Raises DataError, naming file and line, for what can't be read, and for labels that don't fit.
    """

    def __init__(self, config: TextClassificationConfig, tokenizer: Tokenizer | None = None):
        files = files_of_splits(config, needs_train=tokenizer is None or not config.labels)
        states = [FileState.of(path) for path in files.values()]
        hashes = {split: [content_hash([path], config.cache_dir), path.suffixes[-2:]] for split, path in files.items()}
        settings = [
            *(list(config.text_column), config.label_column, list(config.labels), config.empty_text.value),
            *(config.split, config.val_fraction, config.separator, config.quotes and config.quotes.value),
            config.encoding,
        ]

        def read() -> LabelledSplits:
            found = _read(config, files)
            require_unchanged(states)
            return found

        super().__init__(config, ["text_classification", _VERSION, hashes, settings], read, tokenizer)


def _read(config: TextClassificationConfig, files: dict[str, Path]) -> LabelledSplits:
    notes: list[str] = []
    columns: Mapping[str, str] = _columns_of(config)
    rows: dict[str, Rows] = {}
    known = labels.numbers_of(tuple(config.labels))
    with status_line("Reading texts") as report:
        for number, (split, path) in enumerate(files.items()):
            report(number / len(files))
            table = Table(path, columns, TableFormat.of(config), nullable=(config.label_column,))
            table = _with_named_columns(table, known, notes)
            columns = table.columns
            try:
                rows[split] = _usable_rows(config, table, notes)
            except ColumnMissing as error:
                is_known = error.setting != _LABEL and not is_position(columns[error.setting])
                if split != "test" or len(files) == 1 or is_known:  # test splits may come without labels, to be sent in
                    raise
                reason = "so it has no labels" if error.setting == _LABEL else f"which {error.setting} is"
                notes.append(f"{path} has no column {columns[error.setting]}, {reason}: there is no test split")
    seen = rows.get("train") or rows.get("path") or []
    _require_two_classes(seen, config.label_column)
    names = tuple(config.labels) or _names_of(seen, config)
    numbers = labels.numbers_of(names)
    if "test" in rows and len(rows) > 1 and labels.are_none((label for _, _, label in rows["test"]), numbers):
        stand_in = rows.pop("test")[0][2]
        notes.append(f"{files['test']} has no labels ({stand_in!r} in each row), so there is no test split")
    parts = {split: [_labelled(row, numbers, names, config) for row in part] for split, part in rows.items()}
    present = {numbers[labels.plain(label)] for _, _, label in seen}
    if absent := [name for number, name in enumerate(names) if seen and number not in present]:
        notes.append(f"no training text is of the class {_listed(absent)}; data.labels names it")
    return LabelledSplits(_divided(config, parts, names, notes), names, tuple(notes))


def _columns_of(config: TextClassificationConfig) -> dict[str, str]:
    """Setting → column; those of text first, then the label's."""
    texts = [f"data.text_column[{place}]" if place else "data.text_column" for place in range(len(config.text_column))]
    return {**dict(zip(texts, config.text_column, strict=True)), _LABEL: config.label_column}


def _with_named_columns(table: Table, known: dict[str, int], notes: list[str]) -> Table:
    """Where columns are asked for by position, but the first line is a header for sure, the columns by their names:
    other files may have them elsewhere.
    """
    if not known or not all(map(is_position, table.columns.values())):
        return table
    first = list(islice(read_rows(table), _LOOKED_AT_ROWS))
    if not labels.looks_like_header([row[-1].strip() for _, row in first], known):
        return table
    line, header = first[0]
    names = [name.strip() for name in header]
    if not all(names) or len(set(names)) < len(names):
        return table
    notes.append(
        f"{table.path}: line {line} looks like a header, so the columns are taken by their names: text in "
        f"{' and '.join(map(repr, names[:-1]))}, label in {names[-1]!r}"
    )
    return replace(table, columns=dict(zip(table.columns, names, strict=True)), nullable=(names[-1],))


def _usable_rows(config: TextClassificationConfig, table: Table, notes: list[str]) -> Rows:
    """Rows with a text, and their labels, which may be empty."""
    path, rows, empty = table.path, [], []
    for line, (*texts, label) in read_rows(table, notes):
        text = texts[0] if len(texts) == 1 else COLUMN_JOINT.join(part for part in texts if part.strip())
        if text.strip():
            rows.append((f"{path}:{line}", text, label.strip()))
        elif config.empty_text is EmptyText.refuse:
            fix = "remove the row, or data.empty_text=drop leaves such rows out"
            raise broken_file(path, "its text is empty, and data.empty_text=refuse", fix, line)
        else:
            empty.append(f"{path}:{line}")
    if not rows:
        raise broken_file(path, "all its texts are empty", "give a file with text in it, or another data.text_column")
    if empty:
        notes.append(f"rows without text are left out: {_listed(empty)}")
    return rows


def _divided(config: TextClassificationConfig, parts: Parts, names: tuple[str, ...], notes: list[str]) -> Parts:
    """Every split; what has no file of its own is cut out of another."""
    fraction = config.val_fraction or VAL_FRACTION
    if config.val_fraction is not None and ("path" in parts or "val" in parts):
        why = f"data.split={config.split} divides the file" if "path" in parts else "val has a file of its own"
        notes.append(f"data.val_fraction={fraction} has no effect: {why}")
    if "path" in parts:
        parts = divide_by_class(parts["path"], fractions_of(config.split), f"data.split={config.split}")
    elif "train" in parts and "val" not in parts:
        given = parts["train"]
        parts = {
            **divide_by_class(given, {"train": 1 - fraction, "val": fraction}, f"data.val_fraction={fraction}"),
            **{split: part for split, part in parts.items() if split != "train"},
        }
        notes.append(
            f"there is no file for val: {len(parts['val']):,} of the {len(given):,} training texts are held out for it "
            f"(data.val_fraction={fraction})"
        )
    else:
        return parts
    notes += absent_classes(parts, names)
    return parts


def _require_two_classes(rows: Rows, column: str) -> None:
    found = {labels.plain(label) for _, _, label in rows}
    if found == {""}:
        raise DataError.of(
            "DATA-LABELS",
            f"{_file_of(rows)} has no labels: {column!r} is empty, or not there, in each row",
            fix="give data.label_column the column with the class",
        )
    if len(found) == 1:
        raise DataError.of(
            "DATA-LABELS",
            f"{_file_of(rows)} has one class only, {rows[0][2]!r}",
            cause="there is nothing to tell apart",
            fix="give texts of two classes at least, or another data.label_column",
        )


def _names_of(rows: Rows, config: TextClassificationConfig) -> tuple[str, ...]:
    """The labels that occur."""
    given = [label for _, _, label in rows if label]
    place, text, first = rows[0]
    if is_position(config.label_column) and labels.looks_like_header([label for _, _, label in rows], ()):
        raise DataError.of(
            "DATA-LABELS",
            f"{place} has the label {first!r}, which no other row has: line 1 looks like a header",
            fix=f"if it is one, name the columns: {_by_name(text, first)}; if it is a class like the others, list all: "
            "data.labels=[...]",
        )
    counts = Counter(map(labels.plain, given))
    if len(rows) >= _MANY_ROWS and len(counts) > len(rows) // 2:
        raise DataError.of(
            "DATA-LABELS",
            f"{_file_of(rows)} has {len(counts):,} different labels in {len(rows):,} rows",
            cause=f"for instance {_listed(list(counts))}",
            fix="give data.label_column the column with the class; if that is the first word of each line: "
            "data.separator=space data.label_column=1 data.text_column=2",
        )
    return labels.names_of(given)


def _labelled(
    row: tuple[str, str, str], numbers: dict[str, int], names: tuple[str, ...], config: TextClassificationConfig
) -> LabelledText:
    place, text, label = row
    if not label:
        path, _, line = place.rpartition(":")
        raise broken_file(Path(path), "its label is empty", "give each row a label, or remove the row", int(line))
    if labels.plain(label) not in numbers:
        classes = f"the classes are {_listed(list(names))}: those of data.labels, or else those that train has"
        fix = "correct the label, or give all classes: data.labels=[...]"
        if place.endswith(":1") and is_position(config.label_column):
            classes = f"line 1 looks like a header; {classes}"
            fix = f"if it is one, name the columns: {_by_name(text, label)}; else {fix}"
        message = f"{place} has the label {label!r}, which is not one of the classes"
        raise DataError.of("DATA-LABELS", message, cause=classes, fix=fix)
    return LabelledText(text, numbers[labels.plain(label)], place)


def _by_name(text: str, label: str) -> str:
    """Settings for a table of which these are the names of the columns."""
    text = text if len(text) <= _LONGEST_NAME else "..."
    return f"data.text_column={text} data.label_column={label}"


def _file_of(rows: Rows) -> str:
    return rows[0][0].rpartition(":")[0]


def _listed(words: list[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN:,} more" if len(words) > _SHOWN else "")
