"""The picture of a running training: one panel, drawn from a `Progress`. `console.py` says when to draw.

From 60 columns up; the curve stands beside the numbers where there is room and below them where there is not.
Colours mean something: cyan is the training loss, green the best value, yellow a warning; the rest is dim or
plain.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bigtrain.tracking.curve import bounds, braille_plot, sparkline
from bigtrain.tracking.formatting import clock, memory, number, percent, scaled
from bigtrain.tracking.progress import NOTABLE_OTHERS, NOTABLE_WAIT, Progress

_SIDE_BY_SIDE = 66  # columns inside the panel from which the curve fits beside the numbers
_STACKED_ROWS = 4
_SHOWN_WAIT = 0.01  # share of the step from which waiting for data has a row
_MOST_COLUMNS = 110  # a wider panel is harder to read, not easier


def panel_width(columns: int) -> int:
    """Columns the panel takes on a terminal of this many."""
    return min(columns, _MOST_COLUMNS)


def note_room(columns: int) -> int:
    """Letters that fit into the panel's lower border."""
    return panel_width(columns) - 6


class LiveView:
    """A rich renderable that shows the progress as it is at the moment of drawing."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.sample = ""  # newest generated text
        self.note = ""  # newest sentence that is not a warning
        self.waiting = ""  # what the loop waits for, where that takes long
        self.closed = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = panel_width(options.max_width)
        inside = width - 6
        numbers = self._numbers()
        parts: list[RenderableType] = [self._progress_line(inside), Text()]
        # Braille needs a terminal that can show it; without one the numbers still tell everything.
        with_curve = not options.ascii_only and len(self.progress.loss.values) > 1
        if with_curve and inside >= _SIDE_BY_SIDE:
            room = inside - console.measure(numbers, options=options).maximum - 2
            curve = self._curve(room, max(numbers.row_count - 1, _STACKED_ROWS))
            beside = Table.grid(padding=(0, 0, 0, 2))
            beside.add_row(numbers, curve)
            parts.append(beside)
        elif with_curve:
            parts += [numbers, Text(), self._curve(inside, _STACKED_ROWS)]
        else:
            parts.append(numbers)
        if self.sample:
            parts += [Text(), Text(self.sample, style="italic dim", overflow="ellipsis", no_wrap=True)]
        yield Panel(
            Group(*parts),
            title=Text(self.progress.facts.title, style="bold"),
            title_align="left",
            subtitle=Text(self.waiting or self.note, style="dim") if self.waiting or self.note else None,
            subtitle_align="left",
            box=box.ROUNDED,
            border_style="dim",
            padding=(0, 2),
            width=width,
        )

    def _progress_line(self, width: int) -> RenderableType:
        progress = self.progress
        elapsed, left = progress.elapsed_seconds, progress.seconds_left
        if progress.facts.total_steps is None or progress.fraction is None:
            return Text(f"step {progress.step:,}   {clock(elapsed)} so far")
        words = f"{progress.step:,}/{progress.facts.total_steps:,}  {percent(progress.fraction)}"
        if self.closed:
            words += f"  {clock(elapsed)}"
        elif left is not None:
            words += f"  ETA {clock(left)}"
        bar = ProgressBar(
            total=1.0,
            completed=progress.fraction,
            width=max(width - len(words) - 2, 8),
            complete_style="cyan",
            finished_style="green",
        )
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(bar, words)
        return line

    def _numbers(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
        for label, value, remark, style in [*self._quality(), *self._machine()]:
            table.add_row(label, Text(value, style=style), remark)
        return table

    def _quality(self) -> Iterator[tuple[str, str, str, str]]:
        """(label, value, remark, style) of what is learnt."""
        progress, latest = self.progress, self.progress.latest
        primary = progress.facts.primary_metric
        if "train/loss" in latest:
            yield "train loss", number(latest["train/loss"]), "", "cyan"
        if "val/loss" in latest:
            yield "validation loss", number(latest["val/loss"]), "", ""
        if primary != "val/loss" and primary in latest:
            yield primary.replace("val/", "validation "), number(latest[primary]), "", ""
        if progress.best is not None:
            yield "best", number(progress.best), f"at step {progress.best_step:,}", "green"
        if progress.excess_loss is not None and progress.facts.optimal_loss is not None:
            yield (
                "above optimum",
                number(progress.excess_loss),
                f"of {number(progress.facts.optimal_loss)}",
                "",
            )

    def _machine(self) -> Iterator[tuple[str, str, str, str]]:
        """(label, value, remark, style) of how it is learnt."""
        latest = self.progress.latest
        if "optim/learning_rate" in latest:
            yield "learning rate", f"{latest['optim/learning_rate']:.2e}", "", ""
        for tag, unit in (("perf/tokens_per_second", "tok/s"), ("perf/samples_per_second", "samples/s")):
            if tag in latest:
                share = latest.get("perf/share_of_peak")
                remark = f"{percent(share)} of peak" if share is not None else ""
                yield "speed", scaled(latest[tag], unit), remark, ""
                break
        if (wait := latest.get("perf/data_wait", 0.0)) > _SHOWN_WAIT:
            yield "data wait", percent(wait), "of the step", "yellow" if wait > NOTABLE_WAIT else ""
        if "system/memory_bytes" in latest:
            total = self.progress.facts.memory_total_bytes
            yield "peak memory", memory(latest["system/memory_bytes"]), f"of {memory(total)}" if total else "", ""
        if (others := latest.get("system/other_cpu", 0.0)) > NOTABLE_OTHERS:
            yield "other processes", percent(others), "of the cores", "yellow"

    def _curve(self, width: int, height: int) -> RenderableType:
        """The whole run's training loss, its range at the left, and the newest values as bars under it."""
        values = self.progress.loss.values
        low, high = bounds(values)
        labels = [number(high), *[""] * (height - 2), number(low)]
        label_width = max(len("recent"), *(len(label) for label in labels))
        room = max(width - label_width - 1, 8)
        curve = Text(no_wrap=True)
        for label, line in zip(labels, braille_plot(values, room, height), strict=True):
            curve.append(f"{label:>{label_width}} ", style="dim").append(f"{line}\n", style="cyan")
        recent = sparkline(list(self.progress.recent_loss), min(room, 48))
        return curve.append(f"{'recent':>{label_width}} ", style="dim").append(recent, style="cyan")
