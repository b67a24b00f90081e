"""TensorBoard: one directory per run, x axis = optimizer step. Imports TensorBoard only when a sink is made.

Events are written by TensorBoard's own record writer, but in the calling thread: `SummaryWriter` writes in a
thread of its own that prints a traceback over the live view when the disk is full, and tells the caller a
call later.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bigtrain.tracking.jsonl import refuse_vanished
from bigtrain.tracking.tracker import Row, RunFacts, Sink

_COUNTERS = ("step", "samples", "tokens", "time_seconds")


class TensorBoardSink(Sink):
    """Scalars, texts, images, the config, and the hyper-parameters with the final metrics.

    `purge_step` on resume: TensorBoard forgets events of this directory from that step on (the step after the
    checkpoint's). Opens its file at the first call, so that a directory that can't be written is the tracker's to
    warn of.
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        from torch.utils.tensorboard import summary

        self._summary = summary
        self._directory, self._purge_step = directory, purge_step
        self._optimum: dict[str, float] = {}
        self._step = 0

    @cached_property
    def _events(self) -> EventFile:
        return EventFile(self._directory, self._purge_step)

    def start(self, facts: RunFacts) -> None:
        """Writes the config, and the charts that draw training, validation and the optimum as one."""
        known = {"loss": facts.optimal_loss, "accuracy": facts.optimal_accuracy}
        self._optimum = {f"data/optimal_{name}": value for name, value in known.items() if value is not None}
        self._step = facts.first_step
        self._events.add(self._summary.text("config", fenced(facts.config_text, "yaml")), self._step)
        # TensorBoard reads each tag as a regular expression, matched from the start.
        lines = ["train/loss$", "train_eval/loss$", "val/loss$"]
        lines += ["data/optimal_loss$"] if facts.optimal_loss is not None else []
        layout = {"loss": {"training, validation, optimum": ["Multiline", lines]}}
        if facts.optimal_accuracy is not None:
            layout["accuracy"] = {"validation, optimum": ["Multiline", ["val/accuracy$", "data/optimal_accuracy$"]]}
        self._events.add(self._summary.custom_scalars(layout), self._step)
        self._events.flush()

    def scalars(self, row: Row) -> None:
        """Writes each tagged value, and the optimum where it is known."""
        self._step = int(row["step"])
        values = {tag: float(value) for tag, value in row.items() if tag not in _COUNTERS}
        self._add_scalars(values | self._optimum)
        self._events.flush()

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes the text as it is: fenced, for TensorBoard would read it as Markdown."""
        self._events.add(self._summary.text(tag, fenced(text)), step)
        self._events.flush()

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Writes (height, width, 3) uint8 as PNG."""
        self._events.add(self._summary.image(tag, image, dataformats="HWC"), step)
        self._events.flush()

    def hyperparameters(self, settings: Mapping[str, bool | int | float | str], metrics: Mapping[str, float]) -> None:
        """Writes both into this run itself (`add_hparams` would make a second run in a sub-directory).

        TensorBoard's table takes a metric's value from the scalar of its tag. So each metric gets a tag
        of its own, "final/val/loss": the best weights' value would be a false last point of "val/loss".
        """
        final = {f"final/{tag}": float(value) for tag, value in metrics.items()}
        for summary in hyperparameter_summaries(settings, final):
            self._events.add(summary, self._step)
        self._add_scalars(final)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file, if one was opened."""
        if "_events" in vars(self):
            self._events.close()

    def _add_scalars(self, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._events.add(self._summary.scalar(tag, value), self._step)


class EventFile:
    """One event file, written in the calling thread. Every method may raise OSError."""

    def __init__(self, directory: Path, purge_step: int | None = None):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{_next_stamp(directory):010d}.{socket.gethostname()}.{os.getpid()}.0"
        # Exclusive: a link planted under this name is refused, not followed.
        self._file: Any = (directory / name).open("xb")  # noqa: SIM115 - closed by close()
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))
        self.flush()

    def add(self, summary: Any, step: int) -> None:
        """Adds a summary at a step."""
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hands everything to the operating system."""
        refuse_vanished(self._file)
        self._records.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._records.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def _next_stamp(directory: Path) -> int:
    """Seconds since 1970, but above those of every event file here.

    TensorBoard reads the files of a run in the order of their names: a run resumed within the same second, or
    after the clock was set back, must still come last.
    """
    stamps = [path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*")]
    return max([int(time.time()), *(int(stamp) + 1 for stamp in stamps if stamp.isdigit())])


def fenced(text: str, language: str = "") -> str:
    """`text` as a Markdown code block; the fence is longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def hyperparameter_summaries(
    settings: Mapping[str, bool | int | float | str], metrics: Mapping[str, float], failed: bool = False
) -> list[Any]:
    """The three summaries of TensorBoard's hparams plug-in: what there is, this run's values, its end.

    Written from the plug-in's own messages: torch's `summary.hparams` turns booleans into numbers. No group
    is named: TensorBoard then takes the run's path, so runs with equal settings stay rows of their own.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import (
        HParamsPluginData,
        SessionEndInfo,
        SessionStartInfo,
    )

    experiment, start = api_pb2.Experiment(), SessionStartInfo()
    for name, value in sorted(settings.items()):
        if isinstance(value, bool):
            kind, start.hparams[name].bool_value = api_pb2.DATA_TYPE_BOOL, value
        elif isinstance(value, (int, float)):
            kind, start.hparams[name].number_value = api_pb2.DATA_TYPE_FLOAT64, value
        else:
            kind, start.hparams[name].string_value = api_pb2.DATA_TYPE_STRING, str(value)
        experiment.hparam_infos.add(name=name, type=kind)
    for tag in metrics:
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    end = SessionEndInfo(status=status, end_time_secs=time.time())

    summaries = []
    for tag, content in (
        (metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)),
        (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        (metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ):
        summary = Summary()
        summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
        summaries.append(summary)
    return summaries
