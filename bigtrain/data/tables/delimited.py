"""Rows of a table whose fields are separated by a sign: TSV, CSV and whatever else is a row a line.

The separator and what double quotes mean are as the settings say, or else as the file shows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from bigtrain.data.tables.config import SEPARATORS, Quotes, TableConfig
from bigtrain.data.text.lines import MAX_LINE_BYTES, read_lines
from bigtrain.data.text.text_files import broken_file, read_chunks
from bigtrain.errors import DataError

Row = tuple[str, ...]
NumberedRows = Iterator[tuple[int, Row]]
Record = tuple[int, list[str]]  # the line it begins at, and its fields

_FOUND = ("tab", "comma", "semicolon", "bar")  # in this order; what a file's ending says comes first
_OF_ENDING = {".csv": "comma", ".tsv": "tab"}
_LOOKED_AT_LINES = 200
_MOST_NAMES = 20  # columns listed in a message
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class TableFormat:
    """What the settings say about a table; None: the file shows it. `encoding`: UTF-8 where it is None."""

    separator: str | None = None  # one of SEPARATORS
    quotes: Quotes | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, config: TableConfig) -> TableFormat:
        """As the settings have it."""
        return cls(config.separator, config.quotes, config.encoding)


def read_delimited(path: Path, columns: Mapping[str, str], form: TableFormat, notes: list[str]) -> NumberedRows:
    """See `data/tables/rows.py`. What was found out about the file, or left out, is added to `notes`."""
    form = _as_the_file_shows(path, columns, form, notes)
    records = _records(path, form)
    first = next(records, None)
    if first is not None and _separator_line(path, form):
        first = next(records, None)
    if first is None:
        return
    has_header = not all(map(is_position, columns.values()))
    names = first[1]
    places = [
        place_of(column, setting, names if has_header else [], len(names), path) for setting, column in columns.items()
    ]
    needed = max(places) + 1 if has_header else len(names)
    while len(names) > needed and not names[-1].strip():  # empty columns, as spreadsheets leave them behind
        names.pop()
    blank: list[int] = []
    for line, fields in records if has_header else chain([first], records):
        if _is_blank(fields):
            blank.append(line)
            continue
        if len(fields) != len(names) and (len(fields) < len(names) or not _is_blank(fields[len(names) :])):
            raise _uneven(path, line, fields, first, form)
        yield line, tuple(fields[place] for place in places)
    if blank:
        notes.append(f"{path}: {len(blank):,} empty row(s) are left out, the first in line {blank[0]}")


def _is_blank(fields: list[str]) -> bool:
    return not "".join(fields).strip()


class ColumnMissing(DataError):
    """A table lacks a column, or has several of its name; `setting` asked for it."""

    setting = ""


def is_position(column: str) -> bool:
    """Whether a column is asked for by position."""
    return column.isascii() and column.isdigit()


def place_of(column: str, setting: str, names: list[str], count: int, path: Path) -> int:
    """Index of a column among `count`. Raises ColumnMissing that says which there are."""
    if is_position(column):
        if 1 <= int(column) <= count:
            return int(column) - 1
        cause, line = f"{setting} is {column}, but its columns are 1 to {count}", None
        fix = f"give {setting} one of them"
    else:
        if column not in names:
            names = [name.strip() for name in names]
        if names.count(column) == 1:
            return names.index(column)
        what = "has no column" if column not in names else "has more than one column"
        cause, line = f"it {what} {column!r}; its columns: {listed(names)}", 1
        fix = f"give {setting} one of them, or its position, from 1 on, if the first line is no header"
        if column in names:
            fix = (
                f"give {setting} the position of the one that is meant, from 1 on: {setting}={names.index(column) + 1}"
            )
    missing = ColumnMissing(*broken_file(path, cause, fix, line).problems)
    missing.setting = setting
    raise missing


def listed(names: list[str]) -> str:
    """Names of columns, for a message."""
    shown = names[:_MOST_NAMES]
    return ", ".join(map(repr, shown)) + (", ..." if len(names) > _MOST_NAMES else "") if shown else "none"


def _as_the_file_shows(path: Path, columns: Mapping[str, str], form: TableFormat, notes: list[str]) -> TableFormat:
    """The format with nothing left open."""
    if form.separator is None:
        named = _OF_ENDING.get(Path(path.name.lower().removesuffix(".gz")).suffix)
        form = replace(form, separator=_separator_line(path, form) or _separator_of(path, columns, form, named))
        if form.separator != named:
            notes.append(f"{path} is read as a table with a {form.separator} between its fields (data.separator)")
    if form.separator == "space":
        return replace(form, quotes=Quotes.none)
    if form.quotes is None:
        if form.separator in ("comma", "semicolon"):
            return replace(form, quotes=Quotes.double)
        quoted = _is_quoted(path, form)
        if quoted:
            notes.append(
                f"{path} has fields in double quotes, which are taken off; data.quotes=none keeps them in the text"
            )
        return replace(form, quotes=Quotes.double if quoted else Quotes.none)
    return form


def _separator_line(path: Path, form: TableFormat) -> str | None:
    """The separator that a first line such as "sep=;" names, as spreadsheets write it above the header."""
    match = _SEPARATOR_LINE.fullmatch(next(_lines(path, form), ""))
    return next((name for name, sign in SEPARATORS.items() if match and sign == match[1]), None)


def _separator_of(path: Path, columns: Mapping[str, str], form: TableFormat, named: str | None) -> str:
    """The first that gives all columns: by their names in the first line; or, where there are only positions, in every
    line that is looked at, each with as many fields. If there is none, the one that gives the most.
    """
    lines = list(islice(_lines(path, form), _LOOKED_AT_LINES))
    candidates = sorted(_FOUND, key=lambda name: name != named)
    records = {name: _looked_at(lines, replace(form, separator=name)) for name in candidates}
    first = {name: found[0] if found else [] for name, found in records.items()}
    positions = [int(column) for column in columns.values() if is_position(column)]
    names = [column for column in columns.values() if not is_position(column)]
    enough = [name for name in candidates if len(first[name]) >= max(positions, default=1)]
    if names:
        fitting = [name for name in enough if set(names) <= {field.strip() for field in first[name]}]
    else:
        fitting = [name for name in enough if len({len(fields) for fields in records[name]}) == 1] or enough
    return fitting[0] if fitting else max(candidates, key=lambda name: len(first[name]))


def _looked_at(lines: list[str], form: TableFormat) -> list[list[str]]:
    """The fields of each record of some lines. Where quotes may be characters like the others, they are that as long as
    all lines have equally many fields.
    """
    sign = SEPARATORS[form.separator or ""]
    plain = [line.rstrip("\r\n").split(sign) for line in lines if line.strip()]
    if form.quotes is Quotes.none:
        return plain
    if form.quotes is None and form.separator in ("tab", "bar") and len({len(fields) for fields in plain}) == 1:
        return [[field.removeprefix('"').removesuffix('"') for field in fields] for fields in plain]
    try:
        records = [fields for fields in csv.reader(lines, delimiter=sign) if not _is_blank(fields)]
    except csv.Error:
        return []
    return records[:-1] if len(lines) == _LOOKED_AT_LINES else records  # the last may not be complete


def _is_quoted(path: Path, form: TableFormat) -> bool:
    """Whether the fields of a file that begin with a double quote are quoted as those of a CSV are.

    Each of them must end with a quote, and quotes inside must be doubled. Where no quote is doubled, that alone could
    be a text in quotation marks; but who quotes fields quotes each that has a quote in it, so one that stands inside
    another field shows that the marks belong to the text. Fields that go over several lines are looked for only where
    the lines are no rows as they stand.
    """
    if not any(b'"' in chunk for chunk in read_chunks(path)):  # of any encoding that has the sign
        return False
    sign = SEPARATORS[form.separator or ""]
    counts: set[int] = set()
    some, doubled, inside, broken = False, False, False, False
    for _, line in read_lines(path, encoding=form.encoding):
        if not line.strip():
            continue
        counts.add(line.count(sign))
        if '"' not in line:
            continue
        for field in line.split(sign):
            if field.startswith('"'):
                some = True
                broken = broken or not _QUOTED.fullmatch(field)
                doubled = doubled or '""' in field[1:-1]
            else:
                inside = inside or '"' in field
    if not some:
        return False
    if len(counts) == 1:
        return not broken and (doubled or not inside)
    try:
        records = csv.reader(_lines(path, form), delimiter=sign, strict=True)
        return len({len(fields) for fields in records if fields}) == 1
    except csv.Error:
        return False


def _lines(path: Path, form: TableFormat) -> Iterator[str]:
    return (line for _, line in read_lines(path, keep_ends=True, encoding=form.encoding))


def _records(path: Path, form: TableFormat) -> Iterator[Record]:
    """Blank lines are passed over."""
    sign = SEPARATORS[form.separator or ""]
    if form.quotes is Quotes.double:
        yield from _quoted_records(path, form, sign)
        return
    most = 1 if form.separator == "space" else -1
    for number, line in read_lines(path, encoding=form.encoding):
        if line:
            yield number, line.split(sign, most)


def _quoted_records(path: Path, form: TableFormat, sign: str) -> Iterator[Record]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_lines(path, form), delimiter=sign, strict=True)
    first_line = 1
    try:
        for fields in reader:
            if fields:
                yield first_line, fields
            first_line = reader.line_num + 1
    except csv.Error as error:
        fix = (
            'double the quotes inside a quoted text: "so ""quoted"" it is", and close each quote that is opened; '
            "or data.quotes=none, if quotes are characters like the others"
        )
        raise broken_file(path, f"the row that begins here is no CSV ({error})", fix, first_line) from None


def _uneven(path: Path, line: int, fields: list[str], first: Record, form: TableFormat) -> DataError:
    fix = "put a text that holds the separator between double quotes"
    if form.quotes is Quotes.none:
        fix = f"replace each {form.separator} inside a text; or use .csv, where quotes protect them"
    return broken_file(path, f"it has {len(fields)} field(s), line {first[0]} has {len(first[1])}", fix, line)
