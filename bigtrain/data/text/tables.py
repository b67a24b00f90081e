"""Rows of a table: TSV, CSV, JSONL, each plain or .gz, and Parquet where pyarrow is installed.

A column is asked for by its name, or by its position, counted from 1. A TSV or CSV of which any column is asked for by
name has a header in its first line; else the first line is a row like the others. TSV has no quotes: a row is a line,
a field ends with a tab. What the columns mean is the business of the data modules, such as
`data/text/text_classification.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from bigtrain.data.text.lines import MAX_LINE_BYTES, read_lines
from bigtrain.data.text.text_files import broken_file, json_object, unreadable_file
from bigtrain.errors import DataError

Row = tuple[str, ...]
NumberedRows = Iterator[tuple[int, Row]]

SUFFIXES = (".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz", ".parquet")
_MOST_NAMES = 20  # columns listed in a message


def read_rows(path: Path, columns: Mapping[str, str]) -> NumberedRows:
    """The asked columns of each row, with the line that the row begins at (of Parquet: the number of the row).

    `columns`: setting ("data.text_column") → column, in the order of the answer. Blank lines are passed over, line ends
    inside a field become "\\n", numbers become text. Raises DataError, naming file and line, for a table that is empty
    or damaged, or lacks a column.
    """
    name = path.name.removesuffix(".gz")
    reader = _READERS.get(path.suffix if path.suffix == ".parquet" else name[name.rfind(".") :])
    if reader is None:
        raise broken_file(path, "its name does not say what it is", f"let the name end in one of {', '.join(SUFFIXES)}")
    is_empty = True
    for line, values in reader(path, columns):
        is_empty = False
        yield line, tuple(value.replace("\r\n", "\n").replace("\r", "\n") for value in values)
    if is_empty:
        raise broken_file(path, "it has no rows", "give a file with rows in it")


def is_position(column: str) -> bool:
    """Whether a column is asked for by position."""
    return column.isascii() and column.isdigit()


def _read_tsv(path: Path, columns: Mapping[str, str]) -> NumberedRows:
    lines = ((number, line.split("\t")) for number, line in read_lines(path) if line)
    return _rows_of_fields(path, columns, lines, "replace tabs inside a text; or use .csv, where quotes protect them")


def _read_csv(path: Path, columns: Mapping[str, str]) -> NumberedRows:
    return _rows_of_fields(path, columns, _csv_records(path), "put a text with commas in it between double quotes")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader((line for _, line in read_lines(path, keep_ends=True)), strict=True)
    first_line = 1
    try:
        for fields in reader:
            if fields:
                yield first_line, fields
            first_line = reader.line_num + 1
    except csv.Error as error:
        fix = 'double the quotes inside a quoted text: "so ""quoted"" it is", and close each quote that is opened'
        raise broken_file(path, f"the row that begins here is no CSV ({error})", fix, first_line) from None


def _rows_of_fields(
    path: Path, columns: Mapping[str, str], records: Iterator[tuple[int, list[str]]], fix: str
) -> NumberedRows:
    first = next(records, None)
    if first is None:
        return
    has_header = not all(map(is_position, columns.values()))
    names = first[1]
    places = [
        _place_of(column, setting, names if has_header else [], len(names), path) for setting, column in columns.items()
    ]
    for line, fields in records if has_header else chain([first], records):
        if len(fields) != len(names):
            raise broken_file(path, f"it has {len(fields)} field(s), line {first[0]} has {len(names)}", fix, line)
        yield line, tuple(fields[place] for place in places)


def _place_of(column: str, setting: str, names: list[str], count: int, path: Path) -> int:
    """Index of a column among `count`. Raises DataError that says which there are."""
    if is_position(column):
        if 1 <= int(column) <= count:
            return int(column) - 1
        raise broken_file(
            path, f"{setting} is {column}, but its columns are 1 to {count}", f"give {setting} one of them"
        )
    if names.count(column) == 1:
        return names.index(column)
    what = "has no column" if column not in names else "has more than one column"
    raise broken_file(
        path,
        f"it {what} {column!r}; its columns: {_listed(names)}",
        f"give {setting} one of them, or its position, from 1 on, if the first line is no header",
        1,
    )


def _read_jsonl(path: Path, columns: Mapping[str, str]) -> NumberedRows:
    example = ", ".join(f'"{column}": "..."' for column in columns.values())
    for number, line in read_lines(path):
        if not line or line.isspace():
            continue
        row = json_object(line, path, number, f"each line is one object, such as {{{example}}}")
        for setting, column in columns.items():
            if column not in row:
                cause = f"it has no key {column!r}; its keys: {_listed(row)}"
                raise broken_file(path, cause, f"give {setting} one of them", number)
        yield number, tuple(_text_of(row[column], column, path, number) for column in columns.values())


def read_parquet(path: Path, columns: Mapping[str, str]) -> NumberedRows:
    """See `read_rows`; an empty table is none of its errors."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError.of(
            "DATA-PARQUET",
            f"{path} is a Parquet file, which pyarrow reads, and pyarrow is not installed",
            fix="pip install 'bigtrain[data]', or save the table as .csv or .jsonl",
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = [there[_place_of(column, key, there, len(there), path)] for key, column in columns.items()]
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
                for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    number += 1
                    row = zip(values, names, strict=True)
                    yield number, tuple(_text_of(value, name, path, number) for value, name in row)
    except OSError as error:
        raise unreadable_file(path, error) from error
    except pyarrow.ArrowException as error:
        raise broken_file(path, f"it is no Parquet file ({error})", "copy or download the file again") from error


def _text_of(value: Any, column: str, path: Path, number: int) -> str:
    """A text as it is, a whole number or a truth value as JSON writes it."""
    if isinstance(value, (int, bool)):
        return str(value).lower()
    if not isinstance(value, str):
        what = "null" if value is None else f"a {type(value).__name__}"
        raise broken_file(path, f"its {column!r} is {what}, not a text or a whole number", "give it a text", number)
    try:
        value.encode()
    except UnicodeEncodeError:
        cause = f"its {column!r} has a lone surrogate, so it is not Unicode"
        raise broken_file(path, cause, "save it as UTF-8, or remove the character", number) from None
    return value


def _listed(names: Any) -> str:
    shown = list(names)[:_MOST_NAMES]
    return ", ".join(map(repr, shown)) + (", ..." if len(names) > _MOST_NAMES else "") if shown else "none"


_READERS: dict[str, Callable[[Path, Mapping[str, str]], NumberedRows]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": read_parquet,
}
