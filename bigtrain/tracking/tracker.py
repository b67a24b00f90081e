"""The tracker: what the loop tells, handed to every sink (console, metrics.jsonl, TensorBoard, train.log).

The loop calls a handful of named methods; sinks never touch training. A sink that fails is switched off with
one warning, and training goes on: the weights are never the worse for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Row = dict[str, float | int]


@dataclass(frozen=True)
class RunFacts:
    """What is known before the first step."""

    title: str  # "transformer on python_docs"
    run_dir: Path
    config_text: str  # the saved (redacted) config, YAML
    resolved: dict[str, str]  # "precision": "bf16 (auto: the CPU has AMX)"; shown at the start
    parameters: int
    total_steps: int | None  # None: ended by time only
    first_step: int  # 0, or where a resumed run goes on
    samples_per_step: float
    tokens_per_step: float | None  # None where samples have no tokens
    flops_per_sample: float  # forward and backward
    peak_flops: float | None  # measured matmul ceiling of this device and precision, FLOP/s
    primary_metric: str  # "val/loss"
    higher_is_better: bool
    optimal_loss: float | None = None
    optimal_accuracy: float | None = None
    memory_total_bytes: int | None = None  # of the device; None where several ranks share it
    details: dict[str, str] = field(default_factory=dict)  # more lines for the start: data sizes, schedule


@dataclass(frozen=True)
class Opening:
    """What is known before the model is made, and is said before whatever that takes."""

    title: str
    run_dir: Path
    details: dict[str, str]  # more lines: data sizes


class Sink:
    """One place where a run is seen; a sink extends this class and overrides what concerns it.

    Any method may raise; the tracker then closes the sink and switches it off with one warning.
    """

    def open(self, opening: Opening) -> None:
        """At most once, before `start`, of a sink that is there so early."""

    def start(self, facts: RunFacts) -> None:
        """Once, before the first step."""

    def step(self, step: int) -> None:
        """After every step; must cost microseconds."""

    def scalars(self, row: Row) -> None:
        """A logged row: step, samples, tokens, time_seconds and tagged values ("train/loss", …)."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Generated text, tables."""

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """(height, width, 3) uint8."""

    def note(self, sentence: str, warning: bool = False) -> None:
        """One sentence for the user: a checkpoint was written, a fall-back was taken."""

    def hyperparameters(self, settings: dict[str, bool | int | float | str], metrics: dict[str, float]) -> None:
        """Once, at the end."""

    def close(self) -> None:
        """Flush and release."""


class Tracker:
    """Hands every call to every sink that still works. The console stands first in `sinks`."""

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)

    def add(self, sinks: Sequence[Sink]) -> None:
        """More sinks, behind those that are there."""
        self._sinks += sinks

    def open(self, opening: Opening) -> None:
        """See `Sink.open`."""
        self._each("open", opening)

    def start(self, facts: RunFacts) -> None:
        """See `Sink.start`."""
        self._each("start", facts)

    def step(self, step: int) -> None:
        """See `Sink.step`."""
        for sink in self._sinks:
            try:
                sink.step(step)
            except Exception as error:  # a terminal that went away, for instance
                self._switch_off(sink, error)

    def scalars(self, row: Row) -> None:
        """See `Sink.scalars`."""
        self._each("scalars", row)

    def text(self, tag: str, text: str, step: int) -> None:
        """See `Sink.text`."""
        self._each("text", tag, text, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """See `Sink.image`."""
        self._each("image", tag, image, step)

    def note(self, sentence: str, warning: bool = False) -> None:
        """See `Sink.note`."""
        self._each("note", sentence, warning)

    def hyperparameters(self, settings: dict[str, bool | int | float | str], metrics: dict[str, float]) -> None:
        """See `Sink.hyperparameters`."""
        self._each("hyperparameters", settings, metrics)

    def close(self) -> None:
        """See `Sink.close`. Closing again does nothing."""
        while self._sinks:
            sink = self._sinks.pop()  # from the last: the first, the console, hears of the others' failures
            try:
                sink.close()
            except Exception as error:
                self._warn(sink, error)

    def _each(self, method: str, *arguments: object) -> None:
        for sink in self._sinks:
            if sink in self._sinks:  # another sink's warning may have ended this one meanwhile
                try:
                    getattr(sink, method)(*arguments)
                except Exception as error:  # a sink must never end a training run
                    self._switch_off(sink, error)

    def _switch_off(self, sink: Sink, error: Exception) -> None:
        # A new list, not a removal: callers may be walking the old one.
        self._sinks = [other for other in self._sinks if other is not sink]
        with contextlib.suppress(Exception):  # give the terminal and the file back, if that still works
            sink.close()
        self._warn(sink, error)

    def _warn(self, sink: Sink, error: Exception) -> None:
        sentence = f"{type(sink).__name__} is switched off, training goes on: {type(error).__name__}: {error}"
        self.note(sentence, warning=True)
