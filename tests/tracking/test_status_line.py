"""What takes long says so: a plain line in a file, one rewritten line on a terminal, nothing of what is quick."""

from __future__ import annotations

import io
import sys
import time

import pytest

from bigtrain.tracking.status_line import show_in, status_line


class Stream(io.StringIO):
    """Standard error, as a terminal or not."""

    def __init__(self, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def errors(monkeypatch):
    """errors(terminal) → what is written to standard error from now on."""
    monkeypatch.setenv("TERM", "xterm")
    show_in(None)
    monkeypatch.setattr("bigtrain.tracking.status_line.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("bigtrain.tracking.status_line._BETWEEN_SECONDS", 0.02)

    def replace(terminal: bool) -> Stream:
        stream = Stream(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replace


def test_a_plain_line_elsewhere(errors):
    stream = errors(False)
    with status_line("Compiling", ""), status_line("A part of it", ""):
        time.sleep(0.3)
    assert stream.getvalue() == "Compiling: 0 s\n"


def test_one_rewritten_line_on_a_terminal_which_goes(errors):
    stream = errors(True)
    with status_line("Reading texts") as report:
        report(0.25)
        time.sleep(0.3)
    text = stream.getvalue()
    assert text.count("Reading texts: 25%, 0 s (once; kept for the next start)") > 1
    assert "\n" not in text
    assert text.endswith("\r\x1b[2K")


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_of_what_is_quick_and_nothing_after_an_error(errors, terminal):
    stream = errors(terminal)
    with status_line("Loading"):
        pass
    with pytest.raises(ValueError, match="broken"), status_line("Loading"):
        raise ValueError("broken")
    time.sleep(0.1)
    assert stream.getvalue() == ""
