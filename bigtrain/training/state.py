"""TrainState: the numbers that a checkpoint keeps beside its tensors, as JSON with floats in hex, which are exact.

Nothing else is needed to resume: the data order, the dropout masks and the schedule are functions of `step`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_ON_DISK = {"loss_sums": "interval"}  # field → its name in state.json, where an earlier version named it otherwise


@dataclass
class TrainState:
    """`step` counts optimizer steps attempted, `updates` those applied: a skipped step advances the data too."""

    step: int = 0
    updates: int = 0
    train_seconds: float = 0.0  # in training steps of this rank, over all sessions of the run; saved are rank 0's
    best_metric: float | None = None
    best_step: int | None = None
    patience_metric: float | None = None  # of the last evaluation better by more than min_delta
    evaluations_without_better: int = 0
    cadences_done: list[str] = field(default_factory=list)  # of `step`: "log", "evaluate", "save"
    cadence_seconds: dict[str, float] = field(default_factory=dict)  # seconds of training when each was last done
    loss_sums: dict[str, float] = field(default_factory=dict)  # of the `LossMeter`: since the last logged row
    scaler: dict[str, float] = field(default_factory=dict)  # fp16 loss scaling
    threads: int = 0  # of torch on the CPU: their number changes the order of sums, and so the bytes
    lengths: list[list[int | None]] = field(default_factory=list)  # see `training/extension.py`
    resolved: dict[str, str] = field(default_factory=dict)  # what `auto` became

    def to_json(self) -> dict[str, Any]:
        """JSON with floats as hex."""
        return {_ON_DISK.get(name, name): _hex(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TrainState:
        """Inverse of `to_json`. Raises TypeError for unknown keys."""
        in_memory = {on_disk: name for name, on_disk in _ON_DISK.items()}
        return cls(**{in_memory.get(name, name): _unhex(value) for name, value in document.items()})


def _hex(value: Any) -> Any:
    if isinstance(value, float):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _hex(item) for key, item in value.items()}
    return value


def _unhex(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return float.fromhex(value["hex"])
        return {key: _unhex(item) for key, item in value.items()}
    return value
