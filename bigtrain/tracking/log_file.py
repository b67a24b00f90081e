"""train.log: what the plain console prints, each line with its time; kept beside a live view too."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from bigtrain.errors import printable
from bigtrain.tracking.jsonl import open_for_append, refuse_vanished
from bigtrain.tracking.progress import Progress, row_line, start_lines
from bigtrain.tracking.tracker import Row, RunFacts, Sink


class LogFileSink(Sink):
    """Appends; a resumed run goes on in the same file."""

    def __init__(self, path: Path):
        self._file = open_for_append(path)
        self._progress: Progress | None = None

    def start(self, facts: RunFacts) -> None:
        """Writes what is known before the first step."""
        self._progress = Progress(facts)
        self._write(facts.title)
        for label, sentence in start_lines(facts):
            self._write(f"  {label}: {sentence}")

    def scalars(self, row: Row) -> None:
        """Writes the row."""
        if self._progress is not None:
            self._write(row_line(row, self._progress.facts, self._progress.observe(row)))

    def note(self, sentence: str, warning: bool = False) -> None:
        """Writes the sentence."""
        self._write(f"warning: {sentence}" if warning else sentence)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        refuse_vanished(self._file)
        self._file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {printable(line)}\n")
