"""Event files, read back with TensorBoard's own reader and through a real `tensorboard` on loopback."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.tracking.tensorboard import EventFile, TensorBoardSink, fenced
from bigtrain.tracking.tracker import Tracker

SETTINGS = {"optimizer.learning_rate": 1e-3, "model.hidden_size": 64, "model.bias": True, "model.name": "cnn"}
ALL_SESSIONS = {
    "experimentName": "",
    "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"],
    "startIndex": 0,
    "sliceSize": 10,
}
IMAGE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def _read(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "images": 0}).Reload()


def _text(accumulator: Any, tag: str) -> list[tuple[int, str]]:
    tensors = accumulator.Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in tensors]


@pytest.fixture
def run_dir(tmp_path, facts_with_optimum, train_row, val_row) -> Path:
    """A finished run with everything in it."""
    sink = TensorBoardSink(tmp_path / "run-1" / "tensorboard")
    sink.start(facts_with_optimum)
    for step in (10, 20, 30):
        sink.scalars(train_row(step))
    sink.scalars(val_row(30, 1.9))
    sink.text("val/sample", "The *quick* fox\n  jumps ``` over", 30)
    sink.image("val/predictions", IMAGE, 30)
    sink.hyperparameters(SETTINGS, {"val/loss": 1.8, "test/loss": 1.85})
    sink.close()
    return tmp_path / "run-1"


def test_scalars_and_the_known_optimum_stand_at_every_logged_step(run_dir, train_row):
    accumulator = _read(run_dir / "tensorboard")
    for tag in ("train/loss", "optim/learning_rate", "system/memory_bytes", "perf/share_of_peak"):
        assert [(event.step, event.value) for event in accumulator.Scalars(tag)] == [
            (step, pytest.approx(train_row(step)[tag], rel=1e-6)) for step in (10, 20, 30)
        ]
    assert {event.value for event in accumulator.Scalars("data/optimal_loss")} == {1.25}
    assert [event.step for event in accumulator.Scalars("data/optimal_loss")] == [10, 20, 30, 30]
    assert not {"step", "samples", "tokens", "time_seconds"} & set(accumulator.Tags()["scalars"])


def test_config_samples_and_images_are_recorded_as_they_are(run_dir, facts):
    accumulator = _read(run_dir / "tensorboard")
    assert _text(accumulator, "config") == [(0, f"```yaml\n{facts.config_text}\n```")]
    assert _text(accumulator, "val/sample") == [(30, "````\nThe *quick* fox\n  jumps ``` over\n````")]
    (event,) = accumulator.Images("val/predictions")
    assert (event.step, event.width, event.height) == (30, 8, 6)
    import io

    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), IMAGE)


def test_final_metrics_are_no_false_last_point_of_a_curve(run_dir):
    accumulator = _read(run_dir / "tensorboard")
    assert [event.value for event in accumulator.Scalars("val/loss")] == [pytest.approx(1.9)]
    assert [(event.step, event.value) for event in accumulator.Scalars("final/val/loss")] == [(30, pytest.approx(1.8))]


def test_hyperparameters_lie_in_the_run_itself(run_dir):
    assert [path.name for path in run_dir.rglob("*") if path.is_dir()] == ["tensorboard"]
    assert len(list((run_dir / "tensorboard").iterdir())) == 1


def test_the_best_possible_accuracy_is_a_line_and_has_its_own_chart(tmp_path, facts, train_row):
    sink = TensorBoardSink(tmp_path)
    sink.start(replace(facts, optimal_loss=0.25, optimal_accuracy=0.875))
    sink.scalars(train_row(10))
    sink.close()
    accumulator = _read(tmp_path)
    assert [(event.step, event.value) for event in accumulator.Scalars("data/optimal_accuracy")] == [(10, 0.875)]
    (layout,) = accumulator.Tensors("custom_scalars__config__")
    assert b"val/accuracy$" in layout.tensor_proto.string_val[0]
    assert b"data/optimal_accuracy$" in layout.tensor_proto.string_val[0]


def test_a_run_without_a_known_optimum_draws_none(tmp_path, facts, train_row):
    sink = TensorBoardSink(tmp_path)
    sink.start(facts)
    sink.scalars(train_row(10))
    sink.close()
    assert "data/optimal_loss" not in _read(tmp_path).Tags()["scalars"]


def test_a_value_that_is_not_finite_is_recorded(tmp_path, train_row):
    sink = TensorBoardSink(tmp_path)
    sink.scalars(train_row(1, **{"train/loss": float("nan"), "optim/grad_norm": float("inf")}))
    sink.close()
    accumulator = _read(tmp_path)
    assert np.isnan(accumulator.Scalars("train/loss")[0].value)
    assert accumulator.Scalars("optim/grad_norm")[0].value == float("inf")


def _killed_and_resumed(directory: Path, facts, train_row) -> None:
    killed = TensorBoardSink(directory)
    killed.start(facts)
    for step in (10, 20, 30, 40):
        killed.scalars(train_row(step, **{"train/loss": 1.0}))
    # No close: the process was killed after step 40; its checkpoint is of step 20.
    resumed = TensorBoardSink(directory, purge_step=21)
    resumed.start(replace(facts, first_step=20))
    for step in (30, 40, 50):
        resumed.scalars(train_row(step, **{"train/loss": 2.0}))
    resumed.close()


def test_a_resumed_run_has_each_step_once(tmp_path, facts, train_row):
    _killed_and_resumed(tmp_path, facts, train_row)
    losses = [(event.step, event.value) for event in _read(tmp_path).Scalars("train/loss")]
    assert losses == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


@pytest.mark.parametrize("years", [0, -10, 10])
def test_whatever_the_clock_says_the_resumed_part_is_read_last(years, tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    EventFile(tmp_path).close()
    (first,) = tmp_path.iterdir()
    monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
    EventFile(tmp_path, purge_step=5).close()
    assert sorted(tmp_path.iterdir())[0] == first
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_planted_in_place_of_the_event_file_is_refused(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("keep")
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    directory = tmp_path / "tensorboard"
    directory.mkdir()
    name = f"events.out.tfevents.1700000000.{socket.gethostname()}.{os.getpid()}.0"
    monkeypatch.setattr("bigtrain.tracking.tensorboard._next_stamp", lambda _: 1_700_000_000)
    (directory / name).symlink_to(target)
    with pytest.raises(FileExistsError):
        EventFile(directory)
    assert target.read_text() == "keep"


def _fill_disk(sink: TensorBoardSink, directory: Path) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = lambda self: None

    sink._events._records._writer = Full()


def _remove(sink: TensorBoardSink, directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


@pytest.mark.parametrize("harm", [_fill_disk, _remove])
def test_a_writer_that_fails_in_mid_run_gives_one_warning(harm, tmp_path, facts, train_row, recorder, capfd):
    sink = TensorBoardSink(tmp_path / "tensorboard")
    tracker = Tracker([recorder, sink])
    tracker.start(facts)
    tracker.scalars(train_row(10))
    harm(sink, tmp_path / "tensorboard")
    for step in (20, 30, 40):
        tracker.scalars(train_row(step))
    tracker.close()
    assert len(recorder.warnings()) == 1
    assert len(recorder.told("scalars")) == 4
    assert capfd.readouterr().err == ""  # no traceback from a thread


def test_a_fence_is_longer_than_any_run_of_backticks_in_the_text():
    assert fenced("a", "yaml") == "```yaml\na\n```"
    assert fenced("a\n`````\nb").splitlines()[0] == "``````"


class Server:
    """A `tensorboard` process on a free loopback port."""

    def __init__(self, logdir: Path, log: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        arguments = ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", str(self.port)]
        self._log = log
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tensorboard.main",
                *arguments,
                "--load_fast=false",
                "--reload_interval=1",
            ],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/data/{path}", data, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def wait_for_run(self, count: int = 1, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if len(self.ask("plugin/scalars/tags")) == count:
                    return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"tensorboard shows no run:\n{self._log.read_text()}")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def test_a_real_tensorboard_shows_the_run(run_dir, tmp_path):
    server = Server(run_dir.parent, tmp_path / "server.log")
    try:
        server.wait_for_run()
        run = "run-1/tensorboard"
        scalars = server.ask("plugin/scalars/tags")
        assert list(scalars) == [run]  # one run: hyper-parameters made no second one
        assert {"train/loss", "val/loss", "final/val/loss", "data/optimal_loss"} <= set(scalars[run])
        assert set(server.ask("plugin/text/tags")[run]) == {"config/text_summary", "val/sample/text_summary"}
        assert list(server.ask("plugin/images/tags")[run]) == ["val/predictions"]
        _check_hyperparameters(server, run)
        _check_combined_chart(server, run)
    finally:
        server.stop()


def test_runs_with_equal_settings_and_equal_folder_names_stay_apart(tmp_path):
    for experiment in ("x", "y"):
        sink = TensorBoardSink(tmp_path / experiment / "run" / "tensorboard")
        sink.hyperparameters(SETTINGS, {"val/loss": 1.0})
        sink.close()
    server = Server(tmp_path, tmp_path / "server.log")
    try:
        server.wait_for_run(count=2)
        groups = server.ask("plugin/hparams/session_groups", {**ALL_SESSIONS, "colParams": []})["sessionGroups"]
    finally:
        server.stop()
    sessions = sorted([session["name"] for session in group["sessions"]] for group in groups)
    assert sessions == [["x/run/tensorboard"], ["y/run/tensorboard"]]


def _check_hyperparameters(server: Server, run: str) -> None:
    experiment = server.ask("plugin/hparams/experiment", {"experimentName": ""})
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert kinds == {
        "optimizer.learning_rate": "DATA_TYPE_FLOAT64",
        "model.hidden_size": "DATA_TYPE_FLOAT64",
        "model.bias": "DATA_TYPE_BOOL",
        "model.name": "DATA_TYPE_STRING",
    }
    columns = [{"hparam": name} for name in kinds]
    columns += [{"metric": {"tag": tag, "group": ""}} for tag in ("final/val/loss", "final/test/loss")]
    body = {**ALL_SESSIONS, "colParams": columns}
    (group,) = server.ask("plugin/hparams/session_groups", body)["sessionGroups"]
    assert group["hparams"] == SETTINGS
    assert [session["name"] for session in group["sessions"]] == [run]
    metrics = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
    assert metrics == {"final/val/loss": pytest.approx(1.8), "final/test/loss": pytest.approx(1.85)}


def _check_combined_chart(server: Server, run: str) -> None:
    layout = server.ask("plugin/custom_scalars/layout")
    (category,) = layout["category"]
    (chart,) = category["chart"]
    drawn = set()
    for tag in chart["multiline"]["tag"]:
        query = f"plugin/custom_scalars/scalars?run={run}&tag={urllib.request.quote(tag)}"
        answer = server.ask(query)
        assert answer["regex_valid"]
        drawn |= set(answer["tag_to_events"])
    assert drawn == {"train/loss", "val/loss", "data/optimal_loss"}
