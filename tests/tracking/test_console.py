"""What a person sees: the live view at several widths, plain lines elsewhere, nothing a stream can't show."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bigtrain.errors import Problem, printable
from bigtrain.tracking.console import LiveConsole, PlainConsole, SteadyConsole, console_for, say
from bigtrain.tracking.curve import braille_plot, resample, sparkline
from bigtrain.tracking.formatting import clock, memory, number, percent, scaled, short_path
from bigtrain.tracking.live_view import LiveView
from bigtrain.tracking.progress import History, Progress, row_line
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.tracker import Opening, Tracker


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8"):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes a rich console of some width on a Terminal, whatever this process's own terminal is."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return lambda width, **options: Console(
        file=Terminal(options.pop("encoding", "utf-8")),
        force_terminal=True,
        width=width,
        height=40,
        **options,
    )


def _last_panel(console: Console) -> list[str]:
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text[max(text.rindex("╭"), 0) :].split("\n")
    end = next(index for index, line in enumerate(lines) if line.startswith("╰"))
    return lines[: end + 1]


def _show(console: Console, facts, train_row, val_row) -> LiveConsole:
    live = LiveConsole(console)
    live.start(facts)
    for step in range(10, 1250, 10):
        live.step(step)
        live.scalars(train_row(step))
    live.scalars(val_row(1000, 1.9))
    live.scalars(val_row(1240, 1.95))
    live.text("val/sample", "The quick\nbrown fox", 1240)
    live.note("checkpoint step-00001240 written")
    return live


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_panel_says_everything_and_fits(width, terminal, facts_with_optimum, train_row, val_row):
    console = terminal(width, color_system=None)
    _show(console, facts_with_optimum, train_row, val_row).close()
    panel = _last_panel(console)
    assert len({cell_len(line) for line in panel}) == 1 and cell_len(panel[0]) == min(width, 110)
    text = "\n".join(panel)
    for word in (
        "transformer on python_docs",
        "1,240/2,000  62%",
        "train loss       1.7009",
        "validation loss  1.9500",
        "best             1.9000",
        "at step 1,000",
        "above optimum    0.7000",
        "of 1.2500",
        "learning rate    4.10e-04",
        "41.2k tok/s",
        "38% of peak",
        "612 MiB",
        "The quick brown fox",
        "checkpoint step-00001240 written",
        "recent",
    ):
        assert word in text
    assert any(0x2801 <= ord(char) <= 0x28FF for char in text)  # the curve


@pytest.mark.parametrize(
    "row, words, style",
    [
        ({"perf/data_wait": 0.12}, "data wait 12% of the step", "\x1b[33m"),
        ({"perf/data_wait": 0.02}, "data wait 2.0% of the step", ""),
        ({"perf/data_wait": 0.008}, "", ""),
        ({"system/other_cpu": 0.5}, "other processes 50% of the cores", "\x1b[33m"),
        ({"system/other_cpu": 0.15}, "", ""),
        ({"system/memory_bytes": 42 * 2**30}, "peak memory 42 GiB of 80 GiB", ""),
    ],
)
@pytest.mark.parametrize("width", [60, 80])
def test_what_holds_a_run_up_has_a_row(width, terminal, facts, train_row, row, words, style):
    console = terminal(width, color_system="standard")
    live = LiveConsole(console)
    live.start(replace(facts, memory_total_bytes=80 * 2**30))
    live.scalars(train_row(10, **row))
    live.scalars(train_row(20, **row))
    live.close()
    coloured = console.file.getvalue()
    plain = [Text.from_ansi(line).plain for line in coloured[coloured.rindex("╭") :].split("\n")[:-1]]
    assert {cell_len(line) for line in plain[1:-1]} == {width}
    text = "\n".join(" ".join(line.split()) for line in plain)
    assert words in text and ("of the step" in text or "of the cores" in text) == bool(words and "memory" not in words)
    assert not style or f"{style}{words.split('%')[0].split()[-1]}%" in coloured


def test_what_was_resolved_and_why_stands_above_the_panel(terminal, facts, train_row, val_row):
    console = terminal(80, color_system=None)
    _show(console, facts, train_row, val_row).close()
    start = console.file.getvalue().split("╭")[0]
    for word in (
        "outputs/demo/run-1",
        "812,544",
        "8,192 tokens",
        "2,000 steps",
        "bf16 (auto: the CPU has AMX)",
    ):
        assert word in start


def test_time_left_is_shown_while_running_and_time_taken_at_the_end(terminal, facts, train_row, val_row, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = terminal(80, color_system=None)
    live = LiveConsole(console)
    live.start(facts)
    now[0] += 60
    live.step(500)
    assert "500/2,000  25%  ETA 3:00" in "\n".join(_last_panel(console))
    live.close()
    last = "\n".join(_last_panel(console))
    assert "500/2,000  25%  1:00" in last and "ETA" not in last


def test_warnings_stay_above_the_panel(terminal, facts, train_row, val_row):
    console = terminal(80, color_system=None)
    live = _show(console, facts, train_row, val_row)
    live.note("the compiler is missing", warning=True)
    live.close()
    text = console.file.getvalue()
    assert text.count("warning: the compiler is missing") == 1
    assert "warning" not in "\n".join(_last_panel(console))


def test_a_note_too_long_for_the_border_is_printed_whole_and_so_is_one_after_the_end(
    terminal, facts, train_row, val_row
):
    console = terminal(60, color_system=None)
    live = _show(console, facts, train_row, val_row)
    command = f"stopped; go on with: bigtrain resume=outputs/{'long-' * 20}run"
    live.note(command)
    live.close()
    live.note("closed")
    text = console.file.getvalue()
    assert command in text and text.endswith("closed\n")
    assert "checkpoint step-00001240 written" in "\n".join(_last_panel(console))


def test_no_color_is_respected(terminal, facts, train_row, val_row, monkeypatch):
    colored = terminal(80)
    _show(colored, facts, train_row, val_row).close()
    assert "\x1b[36m" in colored.file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = terminal(80)
    _show(plain, facts, train_row, val_row).close()
    assert "\x1b[36m" not in plain.file.getvalue() and "\x1b[32m" not in plain.file.getvalue()


def test_an_ascii_terminal_gets_the_numbers_without_the_curve(terminal, facts, train_row, val_row):
    console = terminal(80, color_system=None, encoding="ascii")
    live = _show(console, facts, train_row, val_row)
    live.close()
    text = console.file.getvalue()
    assert text.isascii()
    assert "train loss       1.7009" in text


def test_a_run_that_ends_by_time_has_no_bar(terminal, facts, train_row):
    console = terminal(80, color_system=None)
    live = LiveConsole(console)
    live.start(replace(facts, total_steps=None))
    live.step(7)
    live.close()
    assert "step 7   0:00 so far" in "\n".join(_last_panel(console))


def test_a_metric_where_higher_is_better_keeps_the_highest(terminal, facts, val_row):
    progress = Progress(replace(facts, primary_metric="val/accuracy", higher_is_better=True))
    for step, accuracy in ((0, float("nan")), (1, 0.5), (2, 0.9), (3, float("nan")), (4, 0.7)):
        progress.observe(val_row(step, 1.0) | {"val/accuracy": accuracy})
    assert (progress.best, progress.best_step) == (0.9, 2)
    console = terminal(80, color_system=None)
    console.print(LiveView(progress))
    assert "validation accuracy  0.7000" in console.file.getvalue()


def test_a_step_costs_microseconds_and_drawing_is_limited(terminal, facts, train_row, val_row):
    console = terminal(80, color_system=None)
    live = _show(console, facts, train_row, val_row)
    drawings = console.file.getvalue().count("╭")
    start = time.perf_counter()
    for step in range(20_000):
        live.step(step)
    seconds = time.perf_counter() - start
    # Drawings cost milliseconds, but come at most twice a second.
    assert console.file.getvalue().count("╭") - drawings <= seconds / 0.5 + 1
    assert seconds / 20_000 < 20e-6
    live.close()


GOLDEN = """\
transformer on python_docs
  run         outputs/demo/run-1
  data        python_docs: 7,812 train samples
  parameters  812,544
  step        32 samples = 8,192 tokens
  length      2,000 steps, 64k samples, 16.4M tokens
  compute     1.3G FLOP per sample; this machine's measured peak is 110G FLOP/s
  optimum     loss 1.2500 nat: no model can do better
  precision   bf16 (auto: the CPU has AMX)
step 10/2,000  0.5%  train/loss 4.9743  lr 4.10e-04  optim/grad_norm 0.8000  \
41.2k tok/s  38% of peak  612 MiB  ETA 3:19
step 10/2,000  0.5%  val/loss 1.9000 (best)  (0.6500 above optimum)  ETA 3:19
step 20/2,000  1.0%  val/loss 1.9500  (0.7000 above optimum)  ETA 1:39
warning: the disk is slow
checkpoint written
"""


def test_plain_lines(facts_with_optimum, train_row, val_row, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    console = PlainConsole(stream)
    console.start(facts_with_optimum)
    now[0] += 1
    console.scalars(train_row(10))
    console.scalars(val_row(10, 1.9))
    console.scalars(val_row(20, 1.95))
    console.note("the disk is slow", warning=True)
    console.note("checkpoint written")
    console.close()
    assert stream.getvalue() == GOLDEN
    assert stream.getvalue().isascii()


def test_a_line_says_what_holds_a_run_up(facts, train_row):
    line = row_line(train_row(10, **{"perf/data_wait": 0.12, "system/other_cpu": 0.5}), facts)
    assert "data wait 12%  other processes 50% of the cores" in line
    line = row_line(train_row(10, **{"perf/data_wait": 0.02, "system/other_cpu": 0.1}), facts)
    assert "wait" not in line and "other" not in line


def test_a_stream_that_lacks_a_letter_gets_a_question_mark(facts):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainConsole(stream).note("naïve")
    assert raw.getvalue() == b"na?ve\n"


def test_the_console_follows_the_stream(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(console_for(Terminal()), LiveConsole)
    assert isinstance(console_for(io.StringIO()), PlainConsole)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(console_for(io.StringIO()), PlainConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(console_for(Terminal()), PlainConsole)


floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(floats, max_size=300), st.integers(2, 60), st.integers(1, 8))
def test_a_curve_of_any_values_fills_its_place(values, width, height):
    lines = braille_plot(values, width, height)
    assert [len(line) for line in lines] == [width] * height
    assert all(0x2800 <= ord(char) <= 0x28FF for line in lines for char in line)
    assert len(sparkline(values, width)) == min(len(values), width)


def test_a_falling_curve_falls_without_holes():
    lines = braille_plot([3.0, 2.0, 1.0, 0.0], 4, 2)
    assert lines == ["⠑⢄⠀⠀", "⠀⠀⠑⢄"]
    assert sparkline([0.0, 1.0, 2.0], 3) == "▁▅█"
    assert resample([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]


@given(st.integers(1, 3000))
def test_a_history_keeps_a_whole_run_in_bounded_memory(count):
    history = History(limit=16)
    for value in range(count):
        history.append(float(value))
    assert 1 <= len(history.values) < 16 or count < 1
    assert history.values == sorted(history.values)
    assert history.values[0] <= 256 and history.values[-1] >= count / 2 - 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(1.83421), "1.8342"),
        (number(12.3456), "12.346"),
        (number(123.456), "123.46"),
        (number(12345.6), "12,346"),
        (number(0.00123), "0.00123"),
        (number(1e-5), "1.00e-05"),
        (number(float("nan")), "nan"),
        (number(1200), "1,200"),
        (scaled(41234, "tok/s"), "41.2k tok/s"),
        (scaled(999.6), "1000"),
        (scaled(999_600), "1000k"),
        (scaled(0.25, "samples/s"), "0.25 samples/s"),
        (scaled(1.1e11, "FLOP/s"), "110G FLOP/s"),
        (memory(612 * 2**20), "612 MiB"),
        (memory(1.5 * 2**30), "1.5 GiB"),
        (clock(38.2), "0:38"),
        (clock(3723), "1:02:03"),
        (clock(100_000), "1d 03:46"),
        (percent(0.382), "38%"),
        (percent(0.042), "4.2%"),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected


def test_a_path_is_shown_relative_only_where_that_is_shorter():
    assert short_path("/home/me/project/outputs/run", "/home/me/project") == "outputs/run"
    assert short_path("/data/run", "/home/me/project/deep/down") == "/data/run"


HOSTILE = "a\x1b[31mb\x07\x9b2J\r\x7f\u202ec\td\r\ne"
SHOWN = "a\\x1b[31mb\\x07\\x9b2J\\r\\x7f\\u202ec\td\r\ne"


def test_control_characters_are_spelt_out_wherever_a_text_is_printed(terminal, capsys):
    assert printable(HOSTILE) == SHOWN
    say(HOSTILE, end="")
    assert capsys.readouterr().out == SHOWN
    stream = io.StringIO()
    PlainConsole(stream).note(HOSTILE)
    assert stream.getvalue() == f"{SHOWN}\n"
    console = SteadyConsole(file=Terminal(), force_terminal=True, width=100)
    console.print(Text(HOSTILE, style="red"))
    assert "\x1b[31mb" not in console.file.getvalue().replace("\x1b[31ma", "")
    assert "a\\x1b[31mb" in console.file.getvalue()
    assert str(Problem("X", HOSTILE, HOSTILE, HOSTILE)).count("\x1b") == 0


@given(st.text())
def test_what_is_printable_stays_so(text):
    assert printable(printable(text)) == printable(text)


def test_what_is_known_before_the_model_is_made_is_said_then_and_once(terminal, facts):
    opening = Opening(facts.title, facts.run_dir, facts.details)
    plain, live = PlainConsole(io.StringIO()), LiveConsole(terminal(80))
    for console, stream in ((plain, plain._stream), (live, live._console.file)):
        tracker = Tracker([console])
        tracker.open(opening)
        said = stream.getvalue()
        for words in (facts.title, "outputs/demo/run-1", "7,812 train samples"):
            assert words in said
        tracker.start(facts)
        tracker.close()
        later = stream.getvalue()[len(said) :]
        assert "precision" in later and "812,544" in later
        assert "7,812" not in later


def test_what_the_loop_waits_for_stands_in_the_panel(terminal, facts, monkeypatch):
    monkeypatch.setattr("bigtrain.tracking.status_line.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("bigtrain.tracking.status_line._BETWEEN_SECONDS", 0.02)
    live = LiveConsole(terminal(80))
    live.start(facts)
    with status_line("Evaluating val", "") as report:
        report(0.5)
        time.sleep(0.3)
        assert "Evaluating val: 50%" in live._console.file.getvalue()
    assert live._view.waiting == ""
    live.close()
