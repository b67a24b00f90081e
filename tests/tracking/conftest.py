"""A run that any sink can be shown: facts, rows, and a sink that writes down what it is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bigtrain.tracking.tracker import Row, RunFacts, Sink

FACTS = RunFacts(
    title="transformer on python_docs",
    run_dir=Path("outputs/demo/run-1"),
    config_text="seed: 0\nmodel:\n  hidden_size: 64\n",
    resolved={"precision": "bf16 (auto: the CPU has AMX)"},
    parameters=812544,
    total_steps=2000,
    first_step=0,
    samples_per_step=32,
    tokens_per_step=8192,
    flops_per_sample=1.3e9,
    peak_flops=1.1e11,
    primary_metric="val/loss",
    higher_is_better=False,
    details={"data": "python_docs: 7,812 train samples"},
)


def _train_row(step: int, **values: float) -> Row:
    row: Row = {"step": step, "samples": step * 32, "tokens": step * 8192, "time_seconds": step * 0.03}
    row |= {
        "train/loss": 1.7 + 3.5 * math.exp(-step / 150),
        "optim/learning_rate": 4.1e-4,
        "optim/grad_norm": 0.8,
        "optim/updates": step,
        "perf/samples_per_second": 1290.0,
        "perf/tokens_per_second": 41234.0,
        "perf/share_of_peak": 0.382,
        "system/memory_bytes": 612 * 2**20,
    }
    return row | values


def _val_row(step: int, loss: float) -> Row:
    return {"step": step, "samples": step * 32, "tokens": step * 8192, "time_seconds": 1.0, "val/loss": loss}


class Recorder(Sink):
    """Writes down every call as (method, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, *arguments: Any) -> None:
        self.calls.append(("start", *arguments))

    def step(self, *arguments: Any) -> None:
        self.calls.append(("step", *arguments))

    def scalars(self, *arguments: Any) -> None:
        self.calls.append(("scalars", *arguments))

    def note(self, sentence: str, warning: bool = False) -> None:
        self.calls.append(("note", sentence, warning))

    def close(self, *arguments: Any) -> None:
        self.calls.append(("close", *arguments))

    def told(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of a method."""
        return [call[1:] for call in self.calls if call[0] == method]

    def warnings(self) -> list[str]:
        """Sentences of the warnings."""
        return [call[0] for call in self.told("note") if call[1]]


@pytest.fixture
def facts() -> RunFacts:
    """What is known before the first step."""
    return FACTS


@pytest.fixture
def facts_with_optimum() -> RunFacts:
    """A run on data whose entropy rate is known."""
    return replace(FACTS, optimal_loss=1.25)


@pytest.fixture
def train_row() -> Callable[..., Row]:
    """step → a row as the loop logs it; named values replace or add."""
    return _train_row


@pytest.fixture
def val_row() -> Callable[[int, float], Row]:
    """(step, loss) → a row of an evaluation."""
    return _val_row


@pytest.fixture
def recorder() -> Recorder:
    """A sink that writes down what it is told."""
    return Recorder()
