"""What a person sees while a run goes on: a live panel on a terminal, a plain line per logged row elsewhere.

Both are driven by the loop's own calls; there is no drawing thread that would take time from training unseen. What
keeps the loop waiting (an evaluation, a checkpoint) is drawn by the thread of tracking/status_line.py.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterable
from typing import IO, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bigtrain.errors import printable
from bigtrain.tracking.live_view import LiveView, note_room
from bigtrain.tracking.progress import Progress, opening_lines, row_line, start_lines
from bigtrain.tracking.status_line import show_in
from bigtrain.tracking.tracker import Opening, Row, RunFacts, Sink

LABEL_WIDTH = len("parameters")  # the longest label of the lines before the first step
_SECONDS_BETWEEN_DRAWINGS = 0.5  # a drawing costs about 3 ms: 0.6 % of the thread that also trains


class SteadyConsole(Console):
    """rich's console, but a reader that has gone is an OSError like any other, where rich would end the process; and no
    control character of a text reaches the terminal.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Called by rich for everything that it prints."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Called by rich while the BrokenPipeError is handled."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")


def console_for(stream: TextIO | None = None) -> Sink:
    """A live view where `stream` (default: standard output) is a terminal with a cursor, else lines."""
    stream = stream or sys.stdout
    if has_cursor(stream):
        return LiveConsole(SteadyConsole(file=stream))
    return PlainConsole(stream)


def has_cursor(stream: TextIO) -> bool:
    """Whether it is a terminal that can draw over what stands there."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


class PlainConsole(Sink):
    """One line per logged row and per note, flushed at once: for nohup, CI, Slurm and pipes."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._progress: Progress | None = None
        self._opened: Opening | None = None

    def open(self, opening: Opening) -> None:
        """Prints what is known before the model is made."""
        self._opened = opening
        self._print(opening.title)
        self._print_lines(opening_lines(opening))

    def start(self, facts: RunFacts) -> None:
        """Prints what is known before the first step."""
        self._progress = Progress(facts)
        if self._opened is None:
            self._print(facts.title)
        self._print_lines(start_lines(facts, self._opened))

    def _print_lines(self, lines: Iterable[tuple[str, str]]) -> None:
        for label, sentence in lines:
            self._print(f"  {label:<{LABEL_WIDTH}}  {sentence}")

    def scalars(self, row: Row) -> None:
        """Prints the row."""
        if self._progress is not None:
            is_best = self._progress.observe(row)
            self._print(row_line(row, self._progress.facts, is_best, self._progress.seconds_left))

    def note(self, sentence: str, warning: bool = False) -> None:
        """Prints the sentence."""
        self._print(f"warning: {sentence}" if warning else sentence)

    def _print(self, line: str) -> None:
        print(encodable(line, self._stream), file=self._stream, flush=True)


class LiveConsole(Sink):
    """A panel that is redrawn in place, at most twice a second. Its last state stays on the screen."""

    def __init__(self, console: Console):
        self._console = console
        self._live: Live | None = None
        self._view: LiveView | None = None
        self._next_drawing = 0.0
        self._opened: Opening | None = None

    def open(self, opening: Opening) -> None:
        """Prints what is known before the model is made."""
        self._opened = opening
        self._console.print(Text(opening.title, style="bold"))
        self._print_lines(opening_lines(opening))

    def start(self, facts: RunFacts) -> None:
        """Prints what is known before the first step, and opens the panel under it."""
        if self._opened is None:
            self._console.print(Text(facts.title, style="bold"))
        self._print_lines(start_lines(facts, self._opened))
        self._view = LiveView(Progress(facts))
        self._live = Live(self._view, console=self._console, auto_refresh=False)
        self._live.start(refresh=True)
        show_in(self._show_waiting)

    def _print_lines(self, lines: Iterable[tuple[str, str]]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH + 2)
        table.add_column(overflow="fold")
        for label, sentence in lines:
            table.add_row(f"  {label}", Text(sentence))
        self._console.print(table)

    def _show_waiting(self, line: str) -> None:
        """What takes long just now, in the panel's lower border. Called by another thread than the loop's, which waits
        meanwhile; rich draws under a lock.
        """
        if self._view is not None:
            self._view.waiting = line
            self._draw()

    def step(self, step: int) -> None:
        """Counts the step; draws when it is time."""
        if self._view is not None:
            self._view.progress.step = step
            if time.monotonic() >= self._next_drawing:
                self._draw()

    def scalars(self, row: Row) -> None:
        """Takes in the row; draws when it is time."""
        if self._view is not None:
            self._view.progress.observe(row)
            if time.monotonic() >= self._next_drawing:
                self._draw()

    def text(self, tag: str, text: str, step: int) -> None:
        """Shows the beginning of the newest generated text as one line."""
        if self._view is not None and not tag.startswith("config"):
            self._view.sample = " ".join(text.split())[:400]

    def note(self, sentence: str, warning: bool = False) -> None:
        """A short note stands in the panel's lower border; a long one or a warning stays above it."""
        is_short = len(sentence) <= note_room(self._console.width)
        if self._live is not None and self._view is not None and is_short and not warning:
            self._view.note = sentence
            self._draw()
            return
        line = Text(f"warning: {sentence}" if warning else sentence, style="yellow" if warning else "")
        self._console.print(line, soft_wrap=True)  # it may hold a command: never broken into lines

    def close(self) -> None:
        """Draws the last state and gives the terminal back."""
        if self._live is not None and self._view is not None:
            show_in(None)
            live, self._live = self._live, None
            self._view.closed = True
            live.stop()  # draws once more

    def _draw(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._next_drawing = time.monotonic() + _SECONDS_BETWEEN_DRAWINGS


def encodable(text: str, stream: IO[str]) -> str:
    """`text` with its control characters spelt out, and "?" for what the stream's encoding lacks: a generated sample
    must neither change the terminal nor end the output.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "replace").decode(encoding)


def say(text: str, end: str = "\n") -> None:
    """Prints a text of others (generated, of data, a path) at once, as `encodable` leaves it."""
    print(encodable(text, sys.stdout), end=end, flush=True)
