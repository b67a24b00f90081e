"""Rows of a table: TSV, CSV and the like, JSON and JSONL, each plain or .gz, and Parquet where pyarrow is installed.

A column is asked for by its name, or by its position, counted from 1. A table other than JSON and Parquet of which any
column is asked for by name has a header in its first line; else the first line is a row like the others. How its rows
are told apart: `data/tables/delimited.py`; what the columns mean: the data modules, such as
`data/text/text_classification.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.data.tables.delimited import NumberedRows, TableFormat, listed, place_of, read_delimited
from bigtrain.data.text.lines import read_lines
from bigtrain.data.text.text_files import broken_file, json_object, unreadable_file
from bigtrain.errors import DataError

_JSON = (".json", ".jsonl", ".ndjson")
_PLAIN = (".tsv", ".csv", *_JSON)
SUFFIXES = (*_PLAIN, *(f"{suffix}.gz" for suffix in _PLAIN), ".parquet")
_NO_TABLES = (".xlsx", ".xls", ".ods", ".zip", ".pdf", ".docx", ".feather", ".pkl", ".db", ".xml", ".html")
OTHER_SUFFIXES = (".txt", ".data", ".label", "")  # tables too, each also with .gz, where they are named or stand alone


@dataclass(frozen=True)
class Table:
    """Where rows are read from and how. `columns`: setting ("data.text_column") → column, in the order of the answer.
    `nullable`: columns of JSON and Parquet that may be null, or not there, which is then "".
    """

    path: Path
    columns: Mapping[str, str]
    form: TableFormat = TableFormat()
    nullable: Collection[str] = ()


def read_rows(table: Table, notes: list[str] | None = None) -> NumberedRows:
    """The asked columns of each row, with the line that the row begins at (of Parquet and of a JSON array: the number
    of the row).

    Blank lines are passed over, line ends inside a field become "\\n", numbers become text. `notes` gets sentences
    about what no setting says of the file, such as its separator, and about rows that are left out. Raises DataError,
    naming file and line, for a table that is empty or damaged, or lacks a column.
    """
    name = table.path.name.lower().removesuffix(".gz")
    suffix = name[name.rfind(".") :] if "." in name else ""
    if suffix == ".parquet":
        rows = read_parquet(table)
    elif suffix in _JSON:
        rows = _read_json(table)
    elif suffix in _NO_TABLES:
        raise broken_file(table.path, f"{suffix} is no table", f"save it as one of {', '.join(SUFFIXES)}")
    else:
        rows = read_delimited(table.path, table.columns, table.form, [] if notes is None else notes)
    is_empty = True
    for line, values in rows:
        is_empty = False
        yield line, tuple(value.replace("\r\n", "\n").replace("\r", "\n") for value in values)
    if is_empty:
        raise broken_file(table.path, "it has no rows", "give a file with rows in it")


def _read_json(table: Table) -> NumberedRows:
    """An array of objects, or an object a line."""
    for number, row in _objects(table):
        for setting, column in table.columns.items():
            if column not in row and column not in table.nullable:
                raise _key_missing(table.path, column, setting, row, number)
        yield number, tuple(_text_of(row.get(column), column, table, number) for column in table.columns.values())


def _key_missing(path: Path, column: str, setting: str, row: dict[str, Any], number: int) -> DataError:
    cause, fix = f"it has no key {column!r}; its keys: {listed(list(row))}", f"give {setting} one of them"
    for key, value in row.items():  # {"data": [{...}, ...]}, as some programs write a table
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            cause += f"; {key!r} is an array of objects"
            fix = f"save the array {key!r} alone: the file is one array of objects, or an object a line"
    return broken_file(path, cause, fix, number)


def _objects(table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    path, encoding = table.path, table.form.encoding
    example = ", ".join(f'"{column}": "..."' for column in table.columns.values())
    fix = f"each line is one object, such as {{{example}}}; or the file is one array of them"
    array: Any = None
    first = next((line for _, line in read_lines(path, encoding=encoding) if line.strip()), "")
    if first.lstrip().startswith("["):
        try:
            array = json.loads("\n".join(line for _, line in read_lines(path, encoding=encoding)))
        except json.JSONDecodeError as error:
            if path.name.lower().removesuffix(".gz").endswith(".json"):
                raise broken_file(path, f"it is not JSON ({error.msg})", fix, error.lineno) from None
        except RecursionError:
            raise broken_file(path, "its arrays are nested too deep", fix) from None
    if array is None:
        for number, line in read_lines(path, encoding=encoding):
            if line and not line.isspace():
                yield number, json_object(line, path, number, fix)
        return
    for number, row in enumerate(array, 1):
        if not isinstance(row, dict):
            raise broken_file(path, f"element {number} of the array is a {type(row).__name__}, not an object", fix)
        yield number, row


def read_parquet(table: Table) -> NumberedRows:
    """See `read_rows`; an empty table is none of its errors."""
    path = table.path
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
            names = [there[place_of(column, key, there, len(there), path)] for key, column in table.columns.items()]
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
                for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    number += 1
                    row = zip(values, names, strict=True)
                    yield number, tuple(_text_of(value, name, table, number) for value, name in row)
    except OSError as error:
        raise unreadable_file(path, error) from error
    except pyarrow.ArrowException as error:
        raise broken_file(path, f"it is no Parquet file ({error})", "copy or download the file again") from error


def _text_of(value: Any, column: str, table: Table, number: int) -> str:
    """A text as it is, a number or a truth value as JSON writes it."""
    if isinstance(value, (int, float)) and not (isinstance(value, float) and math.isnan(value)):
        return str(value).lower()
    if not isinstance(value, str):
        is_null = value is None or isinstance(value, float)
        if is_null and column in table.nullable:
            return ""
        what = "null" if is_null else f"a {type(value).__name__}"
        raise broken_file(table.path, f"its {column!r} is {what}, not a text or a number", "give it a text", number)
    try:
        value.encode()
    except UnicodeEncodeError:
        cause = f"its {column!r} has a lone surrogate, so it is not Unicode"
        raise broken_file(table.path, cause, "save it as UTF-8, or remove the character", number) from None
    return value
