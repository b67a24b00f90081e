"""metrics.jsonl and train.log: rows come back as they went in; a resumed run goes on from its checkpoint."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.tracking.jsonl import JsonlSink, cut_back, decode_row, encode_row, read_rows
from bigtrain.tracking.log_file import LogFileSink
from bigtrain.tracking.tracker import Tracker

values = st.floats() | st.integers(-(2**53), 2**53)
rows = st.builds(
    lambda step, tagged: {"step": step, **tagged},
    st.integers(0, 30),
    st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda tag: tag != "step"), values, max_size=4),
)


def _same(left: dict, right: dict) -> bool:
    def key(value: float) -> str:
        return "nan" if isinstance(value, float) and math.isnan(value) else repr(value)

    return {name: key(value) for name, value in left.items()} == {name: key(value) for name, value in right.items()}


@given(rows)
def test_a_row_comes_back_exactly_and_its_line_is_strict_json(row):
    line = encode_row(row)
    assert "\n" not in line

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(line, parse_constant=refuse)
    assert _same(decode_row(line), row)


def test_numbers_that_are_not_finite_are_words_that_float_reads():
    line = encode_row({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf})
    assert json.loads(line) == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}


@given(st.lists(rows, max_size=8), st.integers(0, 30), st.data())
def test_cut_back_keeps_the_rows_up_to_the_step_and_drops_a_torn_tail(tmp_path_factory, written, step, data):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    whole = "".join(encode_row(row) + "\n" for row in written).encode()
    last = encode_row(data.draw(rows)).encode()
    torn = last[: data.draw(st.integers(0, len(last) - 1))]
    path.write_bytes(whole + torn)
    cut_back(path, step)
    expected = [row for row in written if row["step"] <= step]
    assert len(read_rows(path)) == len(expected)
    assert all(_same(*pair) for pair in zip(read_rows(path), expected, strict=True))
    sink = JsonlSink(path)  # what follows is a line of its own
    sink.scalars({"step": 31})
    sink.close()
    assert read_rows(path)[-1] == {"step": 31}
    assert len(path.read_text().splitlines()) == len(expected) + 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_cutting_back_what_is_not_there_does_nothing(tmp_path):
    cut_back(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_cut_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cut_back(path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_is_on_disk_before_the_next_step(tmp_path, train_row):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.scalars(train_row(10))
    assert read_rows(tmp_path / "metrics.jsonl") == [train_row(10)]
    sink.close()


def test_a_link_planted_in_place_of_a_log_is_refused(tmp_path):
    target = tmp_path / "target"
    target.write_text("keep")
    (tmp_path / "metrics.jsonl").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        JsonlSink(tmp_path / "metrics.jsonl")
    assert target.read_text() == "keep"


@pytest.mark.parametrize("sink_class", [JsonlSink, LogFileSink])
def test_a_file_that_vanishes_gives_one_warning(sink_class, tmp_path, facts, train_row, recorder):
    sink = sink_class(tmp_path / "log")
    tracker = Tracker([recorder, sink])
    tracker.start(facts)
    tracker.scalars(train_row(1))
    (tmp_path / "log").unlink()
    for step in range(2, 5):
        tracker.scalars(train_row(step))
    tracker.close()
    assert len(recorder.warnings()) == 1
    assert len(recorder.told("scalars")) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("sink_class", [JsonlSink, LogFileSink])
def test_a_full_disk_gives_one_warning(sink_class, facts, train_row, recorder):
    tracker = Tracker([recorder, sink_class(Path("/dev/full"))])
    tracker.start(facts)
    for step in range(1, 4):
        tracker.scalars(train_row(step))
    tracker.close()
    assert len(recorder.warnings()) == 1
    assert "No space left" in recorder.warnings()[0]


def test_the_log_has_the_time_before_each_line_and_goes_on_after_a_resume(tmp_path, facts, train_row):
    for step in (1, 2):
        sink = LogFileSink(tmp_path / "train.log")
        sink.start(facts)
        sink.scalars(train_row(step))
        sink.note("the disk is slow", warning=True)
        sink.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d  ", line) for line in lines)
    text = "\n".join(lines)
    assert "step 1/2,000" in text and "step 2/2,000" in text and text.count("warning: the disk is slow") == 2
    assert "precision: bf16 (auto: the CPU has AMX)" in text


def test_a_row_that_will_come_again_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 5, "val/loss": 2.0}, {"step": 10, "train/loss": 1.5}, {"step": 10, "val/loss": 1.0}]
    path.write_text("".join(encode_row(row) + "\n" for row in rows))
    cut_back(path, 10)
    assert read_rows(path) == rows
    cut_back(path, 10, redone=("val/",))
    assert read_rows(path) == rows[:2]
