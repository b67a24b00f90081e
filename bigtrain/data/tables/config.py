"""Settings of data that comes as tables, or as other text files, of the user's; torch-free."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import Invalid, setting


def encoding_setting() -> Any:
    """For text files of the user's."""
    return setting(
        None,
        "Encoding of the text files, for instance cp1252, latin1, utf-16, gb18030; default: UTF-8.",
        before=None,
    )


@dataclass
class EncodedConfig(DataConfig):
    """Settings of data that comes as text files of the user's."""

    encoding: str | None = encoding_setting()

    def problems(self) -> list[Invalid]:
        return super().problems() + encoding_problems(self.encoding)


def encoding_problems(encoding: str | None) -> list[Invalid]:
    """What is wrong with the name of an encoding."""
    if encoding is None or is_encoding(encoding):
        return []
    return [Invalid("encoding", f"is {encoding!r}, which is none; for instance utf-8, cp1252, latin1, utf-16")]


def is_encoding(name: str) -> bool:
    """Whether Python knows an encoding of text by this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}


class Quotes(Enum):
    """What a double quote at the beginning of a field of a table means."""

    none = "none"
    double = "double"


@dataclass
class TableConfig(EncodedConfig):
    """Settings of data that may come as tables: TSV, CSV and the like."""

    separator: str | None = setting(
        None,
        "What ends a field of a table that is neither JSON nor Parquet: tab, comma, semicolon, bar; space: the first "
        "one of a line, as in TREC's .label files. Default: found in the file.",
        before=None,
    )
    quotes: Quotes | None = setting(
        None,
        "double: a field in double quotes may hold anything, and the quotes are no part of it; none: a quote is a "
        "character like the others. Default: double where commas or semicolons separate; else found in the file.",
        before=None,
    )

    def problems(self) -> list[Invalid]:
        found = super().problems()
        if self.separator is not None and self.separator not in SEPARATORS:
            names = [
                name
                for name, sign in SEPARATORS.items()
                if self.separator in (sign, sign.encode("unicode_escape").decode())
            ]
            meant = f"; {self.separator!r} is {names[0]}" if names else ""
            found.append(Invalid("separator", f"is {self.separator!r}; allowed: {', '.join(SEPARATORS)}{meant}"))
        if self.separator == "space" and self.quotes is Quotes.double:
            found.append(Invalid("quotes", "is double, but with separator=space nothing is quoted; leave it out"))
        return found

    def as_test_split(self, path: str) -> Self | None:
        """A table is one split; a folder has files for several."""
        return None if Path(path).expanduser().is_dir() else self.at(path, "test")
