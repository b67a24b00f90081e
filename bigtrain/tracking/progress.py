"""What a console or a log remembers of a run, and the sentences made of it. Nothing here prints.

`Progress` is fed the rows of the run and answers what a view asks: curve, best value, time left.
`start_lines` and `row_line` are the plain text that the plain console and train.log share.
"""

from __future__ import annotations

import math
import time
from collections import deque

from bigtrain.tracking.formatting import clock, memory, number, percent, scaled, short_path
from bigtrain.tracking.tracker import Opening, Row, RunFacts

_COUNTERS = ("step", "samples", "tokens", "time_seconds")
_ONLY_IN_FILES = (
    "data/optimal_loss",
    "optim/updates",
    "perf/step_seconds",
)  # a line says them otherwise, or need not
_RECENT = 48
NOTABLE_WAIT = 0.05  # share of the time that is worth a word in a line
NOTABLE_OTHERS = 0.2  # share of the cores, likewise


class History:
    """A whole run's values in bounded memory: when full, neighbours are averaged and the stride doubles."""

    def __init__(self, limit: int = 256):
        self.values: list[float] = []
        self._limit = limit
        self._stride = 1
        self._waiting: list[float] = []

    def append(self, value: float) -> None:
        """Adds the next value."""
        self._waiting.append(value)
        if len(self._waiting) < self._stride:
            return
        self.values.append(sum(self._waiting) / self._stride)
        self._waiting = []
        if len(self.values) == self._limit:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [(first + second) / 2 for first, second in pairs]
            self._stride *= 2


class Progress:
    """The state of a run as its viewer sees it."""

    def __init__(self, facts: RunFacts):
        self.facts = facts
        self.step = facts.first_step
        self.latest: dict[str, float] = {}
        self.loss = History()
        self.recent_loss: deque[float] = deque(maxlen=_RECENT)
        self.best: float | None = None
        self.best_step = 0
        self._started = time.monotonic()

    def observe(self, row: Row) -> bool:
        """Takes in a logged row; says whether its primary metric is the best so far."""
        self.step = max(self.step, int(row["step"]))
        self.latest.update({tag: float(value) for tag, value in row.items() if tag not in _COUNTERS})
        if "train/loss" in row:
            self.loss.append(float(row["train/loss"]))
            self.recent_loss.append(float(row["train/loss"]))
        value = row.get(self.facts.primary_metric)
        if value is None or not self._is_better(float(value)):
            return False
        self.best, self.best_step = float(value), int(row["step"])
        return True

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        return self.best is None or (value > self.best if self.facts.higher_is_better else value < self.best)

    @property
    def elapsed_seconds(self) -> float:
        """Since the start of this process's part of the run."""
        return time.monotonic() - self._started

    @property
    def fraction(self) -> float | None:
        """Share of the steps that are done, or None where the run ends by time."""
        total = self.facts.total_steps
        return None if total is None else min(1.0, self.step / max(total, 1))

    @property
    def seconds_left(self) -> float | None:
        """At this process's mean pace, evaluations and checkpoints included; None while unknown."""
        done = self.step - self.facts.first_step
        if self.facts.total_steps is None or done <= 0:
            return None
        return self.elapsed_seconds / done * max(0, self.facts.total_steps - self.step)

    @property
    def excess_loss(self) -> float | None:
        """Nats above the known optimum: of the validation loss, or of the training loss before that."""
        loss = self.latest.get("val/loss", self.latest.get("train/loss"))
        if loss is None or self.facts.optimal_loss is None:
            return None
        return loss - self.facts.optimal_loss


def opening_lines(facts: Opening | RunFacts) -> list[tuple[str, str]]:
    """(label, sentence) lines for what is known first: where, on how much data."""
    return [("run", short_path(facts.run_dir)), *facts.details.items()]


def start_lines(facts: RunFacts, opened: Opening | None = None) -> list[tuple[str, str]]:
    """(label, sentence) lines for the start: how big, how long, and what was resolved and why; before them
    `opening_lines`, but for those that were said already.
    """
    said = opening_lines(opened) if opened is not None else []
    lines = [line for line in opening_lines(facts) if line not in said]
    lines.append(("parameters", f"{facts.parameters:,}"))
    work = f"{round(facts.samples_per_step):,} samples"
    if facts.tokens_per_step is not None:
        work += f" = {round(facts.tokens_per_step):,} tokens"
    lines.append(("step", work))
    if facts.total_steps is None:
        lines.append(("length", "until the time is up"))
    else:
        total = f"{facts.total_steps:,} steps, {scaled(facts.total_steps * facts.samples_per_step)} samples"
        if facts.tokens_per_step is not None:
            total += f", {scaled(facts.total_steps * facts.tokens_per_step)} tokens"
        lines.append(("length", total))
    if facts.first_step:
        lines.append(("resumed", f"after step {facts.first_step:,}"))
    compute = scaled(facts.flops_per_sample, "FLOP per sample")
    if facts.peak_flops:
        compute += f"; this machine's measured peak is {scaled(facts.peak_flops, 'FLOP/s')}"
    lines.append(("compute", compute))
    if facts.optimal_loss is not None:
        accuracy = "" if facts.optimal_accuracy is None else f", accuracy {number(facts.optimal_accuracy)}"
        lines.append(("optimum", f"loss {number(facts.optimal_loss)} nat{accuracy}: no model can do better"))
    return [*lines, *facts.resolved.items()]


def row_line(row: Row, facts: RunFacts, is_best: bool = False, seconds_left: float | None = None) -> str:
    """A logged row as one plain line of ASCII, tags in the row's own order."""
    step = int(row["step"])
    words = [f"step {step:,}"]
    if facts.total_steps is not None:
        words = [f"step {step:,}/{facts.total_steps:,}", percent(step / max(facts.total_steps, 1))]
    for tag, value in row.items():
        word = _word(tag, value, row)
        if word:
            words.append(word + (" (best)" if is_best and tag == facts.primary_metric else ""))
        if facts.optimal_loss is not None and tag == "val/loss":
            words.append(f"({number(value - facts.optimal_loss)} above optimum)")
    if seconds_left is not None:
        words.append(f"ETA {clock(seconds_left)}")
    return "  ".join(words)


def _word(tag: str, value: float, row: Row) -> str:
    """One value with its name or unit; empty for what a line does not repeat."""
    if tag in _COUNTERS or tag in _ONLY_IN_FILES:
        return ""
    if tag.startswith("train_eval/") and tag != "train_eval/loss":
        return ""
    if tag == "perf/samples_per_second" and "perf/tokens_per_second" in row:
        return ""
    known = {
        "optim/learning_rate": lambda: f"lr {value:.2e}",
        "perf/tokens_per_second": lambda: scaled(value, "tok/s"),
        "perf/samples_per_second": lambda: scaled(value, "samples/s"),
        "perf/share_of_peak": lambda: f"{percent(value)} of peak",
        "perf/data_wait": lambda: f"data wait {percent(value)}" if value > NOTABLE_WAIT else "",
        "system/memory_bytes": lambda: memory(value),
        "system/other_cpu": lambda: f"other processes {percent(value)} of the cores" if value > NOTABLE_OTHERS else "",
    }
    return known[tag]() if tag in known else f"{tag} {number(value)}"
