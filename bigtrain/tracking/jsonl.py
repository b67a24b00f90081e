"""metrics.jsonl: one JSON object per logged row, for programs; and the append-only file that logs share.

Numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity": JSON has no such numbers
(Python's `NaN` is no JSON, and null would hide a divergence), and `float()` reads all three.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TextIO

from bigtrain.tracking.tracker import Row, Sink


def open_for_append(path: Path) -> TextIO:
    """Opens a log, made if missing, written line by line; a symbolic link is refused (OSError)."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o644), "a", buffering=1, encoding="utf-8", errors="replace")


def refuse_vanished(file: TextIO) -> None:
    """Raises FileNotFoundError where the open file was deleted: writing would go on into nothing."""
    if os.fstat(file.fileno()).st_nlink == 0:
        raise FileNotFoundError("its file was deleted")


class JsonlSink(Sink):
    """Appends each row as one line. On resume, call `cut_back` first."""

    def __init__(self, path: Path):
        self._file = open_for_append(path)

    def scalars(self, row: Row) -> None:
        """Appends the row; it has reached the operating system when this returns."""
        refuse_vanished(self._file)
        self._file.write(encode_row(row) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def encode_row(row: Row) -> str:
    """One row as one line of strict JSON."""
    return json.dumps({key: encode_number(value) for key, value in row.items()}, allow_nan=False)


def encode_number(value: float | int) -> float | int | str:
    """The number, or "NaN", "Infinity", "-Infinity": strict JSON has no others."""
    if isinstance(value, int):
        return value
    value = float(value)  # NumPy's scalars too
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_row(line: str) -> Row:
    """Inverse of `encode_row`. Raises ValueError for what is not a whole row, such as a torn last line."""
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError("not a row: a JSON object with a step")
    return {key: float(value) if isinstance(value, str) else value for key, value in row.items()}


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a metrics.jsonl, in order; a torn line is left out. A missing file has no rows."""
    rows = []
    for line in _lines(path):
        try:
            rows.append(decode_row(line))
        except ValueError:
            continue
    return rows


def cut_back(path: Path, step: int, redone: tuple[str, ...] = ()) -> None:
    """Drops the rows after `step` and every torn line: a resumed run goes on where its checkpoint is.

    Rows of `step` itself go too where they have a tag that begins with one of `redone` ("val/"): they come again.

    Atomic: whenever this is interrupted, either the old file or the new one is there. A missing file stays
    missing.
    """
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= step]
    rows = [row for row in rows if row["step"] < step or not any(tag.startswith(redone) for tag in row)]
    kept = [encode_row(row) + "\n" for row in rows]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("x", encoding="utf-8") as file:  # exclusive: never through a planted link
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    # Only "\n" ends a row; undecodable bytes of a torn line become a line that is no row.
    return path.read_bytes().decode("utf-8", "replace").split("\n") if path.exists() else []
