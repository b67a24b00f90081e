"""Which files hold the two sides of a split of pairs, and reading them side by side.

Either two aligned files, `train.de` and `train.en` (each perhaps with .gz), of which line n of one belongs to line n of
the other; or one table with a column for each side. How a line or a row is read: `data/text/lines.py`,
`data/tables/rows.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bigtrain.data.paths import require_target
from bigtrain.data.tables.delimited import TableFormat
from bigtrain.data.tables.rows import OTHER_SUFFIXES, SUFFIXES, Table, read_rows
from bigtrain.data.text.lines import read_lines
from bigtrain.errors import DataError

_MOST_NAMES = 12  # files listed in a message


@dataclass(frozen=True)
class PairFiles:
    """`paths`: source and target, or one table. `languages`: the endings of the files, or the table's columns."""

    paths: list[Path]
    languages: tuple[str, str]
    form: TableFormat = TableFormat()

    def read(self, notes: list[str] | None = None) -> Iterator[tuple[int, str, str]]:
        """Line, source and target of each pair; for `notes` see `data/tables/rows.py`. Raises DataError for files that
        can't be read or are not aligned.
        """
        if len(self.paths) == 1:
            settings = ("data.source_language", "data.target_language")
            columns = dict(zip(settings, self.languages, strict=True))
            rows = read_rows(Table(self.paths[0], columns, self.form), notes)
            return ((line, source, target) for line, (source, target) in rows)
        return self._aligned()

    def _aligned(self) -> Iterator[tuple[int, str, str]]:
        last = [0, 0]
        for both in zip_longest(*(read_lines(path, encoding=self.form.encoding) for path in self.paths)):
            last = [numbered[0] if numbered else before for numbered, before in zip(both, last, strict=True)]
            if None not in both:
                yield last[0], both[0][1], both[1][1]
        if last[0] != last[1]:
            counted = " and ".join(f"{path} has {lines:,}" for path, lines in zip(self.paths, last, strict=True))
            raise DataError.of(
                "DATA-ALIGNMENT",
                "the two sides do not have equally many lines, so they are not aligned",
                cause=f"{counted}",
                fix="line n of one must be the translation of line n of the other: take both from one source",
            )


def are_there(stem: str, languages: tuple[str, str]) -> bool:
    """Whether any file has a name that `find_pair_files` looks for."""
    try:
        return _first_file([name for names in _names_of(stem, languages) for name in names]) is not None
    except (OSError, ValueError, RuntimeError):
        return True  # and is said by find_pair_files


def find_pair_files(stem: str, key: str, languages: tuple[str, str], form: TableFormat) -> PairFiles:
    """The files that `stem` means: stem.de and stem.en, or a table of that name, its ending left out or not.

    Raises DataError, naming the setting `key`, where there are none, or where only one side is.
    """
    try:
        *sides, table = map(_first_file, _names_of(stem, languages))
        if None not in sides:
            return PairFiles([side for side in sides if side is not None], languages, form)
        if table is not None:
            return PairFiles([table], languages, form)
        cause = _what_is_there(Path(stem).expanduser().parent)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL inside; the home of an unknown user
        sides, cause = [None, None], str(error)
    missing = " and ".join(f"{stem}.{name}" for name, side in zip(languages, sides, strict=True) if side is None)
    raise DataError.of(
        "DATA-MISSING",
        f"{key} gives no pairs: there is no {missing}",
        cause=cause,
        fix="two aligned files end in data.source_language and data.target_language (de and en: train.de, train.en; "
        f"each may be .gz); a table ends in one of {', '.join(SUFFIXES)}, and these two name its columns",
    )


def _names_of(stem: str, languages: tuple[str, str]) -> list[list[str]]:
    """Of the source, the target and the table."""
    sides = [[f"{stem}.{language}", f"{stem}.{language}.gz"] for language in languages]
    endings = [*SUFFIXES, *(f"{ending}{packed}" for ending in OTHER_SUFFIXES for packed in ("", ".gz"))]
    return [*sides, [stem, *(f"{stem}{ending}" for ending in endings if ending)]]


def _first_file(names: list[str]) -> Path | None:
    for path in (Path(name).expanduser() for name in names):
        if path.is_file():
            return path
        require_target(path)
    return None


def _what_is_there(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}, seen from {Path.cwd()}"
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f"{folder} holds {', '.join(names[:_MOST_NAMES]) or 'no file'}{more}"
