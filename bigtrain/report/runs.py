"""A run as read from its directory, finished or not: settings, state, logged rows, its data. No torch, no writing."""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.config.run import EarlyStoppingConfig, Mode
from bigtrain.config.saved import MARK, flatten
from bigtrain.config.watched import watched_metric
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import BigtrainError, CheckpointError
from bigtrain.registry import TASKS
from bigtrain.storage.run_directory import Status, is_locked, is_run_directory
from bigtrain.tracking.jsonl import read_rows
from bigtrain.tracking.tracker import Row

_DEEPEST = 3  # folders between a sweep, a pipeline or outputs/ and the runs in it
_MOST_NAMES = 3  # in a sentence
_OF_STATUS = ("state", "reason", "best", "metrics", "cost", "environment")  # what is read of status.json


@dataclass(frozen=True)
class Point:
    """A value of a metric and the step it is of."""

    value: float
    step: int


@dataclass(frozen=True)
class RunRecord:
    """`settings`: dotted key → value. `data` (facts) and `tokenizer` (a hash): of its newest checkpoint, or None."""

    path: Path
    settings: dict[str, Any]
    kinds: dict[str, str]  # "model": "cnn", …
    choices: dict[str, str]
    state: str
    status: dict[str, Any]
    rows: list[Row]
    data: dict[str, Any] | None
    tokenizer: str | None

    @property
    def watched(self) -> str:
        """The tag of the metric that chooses its best weights."""
        best = self.status.get("best")
        if isinstance(best, dict) and best.get("name"):
            return str(best["name"])
        task = self.kinds.get("task", "")
        if task not in TASKS:  # of a plug-in that is not on
            return "val/loss"
        settings = EarlyStoppingConfig(metric=self.settings.get("trainer.early_stopping.metric"), mode=Mode.auto)
        return f"val/{watched_metric(settings, TASKS[task].config_class)[0]}"

    def points(self, tag: str) -> list[Point]:
        """The finite values of a tag, as the run logged them."""
        return [Point(float(row[tag]), int(row["step"])) for row in self.rows if math.isfinite(row.get(tag, math.nan))]

    def best(self, tag: str, smaller_is_better: bool) -> Point | None:
        """The best value, the first where several are equal."""
        points = self.points(tag)
        choose = min if smaller_is_better else max
        return choose(points, key=lambda point: point.value) if points else None

    def best_of_all_samples(self, tag: str) -> Point | None:
        """A final metric of the best weights, of a run whose rows are of a sample of the validation split."""
        best, metrics = self.status.get("best"), self.status.get("metrics")
        if not (isinstance(best, dict) and best.get("sampled") and isinstance(metrics, dict)):
            return None
        value, step = metrics.get(tag), best.get("step")
        return Point(float(value), step) if isinstance(value, float) and isinstance(step, int) else None

    def last(self, tag: str) -> Point | None:
        """The newest value."""
        points = self.points(tag)
        return points[-1] if points else None

    def cost(self, name: str) -> float | None:
        """ "seconds", "samples", "tokens" or "flops"; None where that is not known."""
        recorded = self.status.get("cost")
        value = recorded.get(name) if isinstance(recorded, dict) else None
        if not isinstance(value, (int, float)) and self.rows:
            value = self.rows[-1].get("time_seconds" if name == "seconds" else name)
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def steps(self) -> int:
        """Steps done, by the last logged row."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def machine(self) -> str:
        """The machine that it ran on."""
        facts = self.status.get("environment")
        facts = facts if isinstance(facts, dict) else {}
        words = [str(facts[key]) for key in ("host", "device") if facts.get(key)]
        if isinstance(facts.get("ranks"), int) and facts["ranks"] > 1:
            words.append(f"{facts['ranks']} ranks")
        return ", ".join(words)


def find_runs(words: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The run directories that paths, patterns (outputs/*/*) and folders of runs, such as a sweep, stand for.

    What is there but holds no run, as a shell's pattern brings it, is left out with a sentence. Raises CheckpointError
    for a name of nothing.
    """
    found: dict[Path, Path] = {}
    without: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        matches = [] if path.exists() else sorted(glob.glob(str(path)))  # noqa: PTH207 - which takes no absolute ones
        paths = [path] if path.exists() else [Path(match) for match in matches]
        if not paths:
            raise CheckpointError.of(
                "COMPARE-MISSING",
                f"{word}: there is no run",
                cause="there is nothing of that name",
                fix="name run directories, a folder that holds some, or a pattern in quotes: 'outputs/*/*'",
            )
        runs = [run for place in paths for run in _runs_under(place)]
        if not runs:
            without.append(path.name)
        for run in runs:
            found.setdefault(run.resolve(), run)
    if len(without) > _MOST_NAMES:
        without = [*without[:_MOST_NAMES], f"{len(without) - _MOST_NAMES} more"]
    return list(found.values()), [f"left out, as no run is there: {', '.join(without)}"] if without else []


def read_run(path: Path) -> RunRecord:
    """The record of a run directory. Raises ConfigError for a config that can't be read."""
    document = read_document(path / "config.yaml")
    mark = document.get(MARK)
    mark = mark if isinstance(mark, dict) else {}
    kinds, choices = (mark.get(name) for name in ("kinds", "choices"))
    status = Status(path)
    known = {name: status.get(name) for name in _OF_STATUS}
    state = str(known["state"] or "unknown")
    if state == "running" and not is_locked(path):
        state = "died"  # without a word: killed, or the machine went down
    data, tokenizer = _facts_of_data(path)
    return RunRecord(
        path=path,
        settings=flatten({key: value for key, value in document.items() if key != MARK}),
        kinds=_texts(kinds),
        choices=_texts(choices),
        state=state,
        status=known,
        rows=read_rows(path / "metrics.jsonl"),
        data=data,
        tokenizer=tokenizer,
    )


def _runs_under(path: Path) -> list[Path]:
    if is_run_directory(path):
        return [path]
    found = [place.parent for depth in range(1, _DEEPEST + 1) for place in path.glob(f"{'*/' * depth}config.yaml")]
    return sorted(place for place in found if "checkpoints" not in place.parts)


def _facts_of_data(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    for step in sorted((path / "checkpoints").glob("step-*"), reverse=True):
        try:
            facts = json.loads((step / "data_spec.json").read_text())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            tokenizer = step / "tokenizer.json"
            digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else None
            return facts, digest
    return None, None


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, dict) else {}


def readable(paths: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """The runs whose config can be read, and a sentence for each of the others."""
    runs, notes = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except BigtrainError as error:
            notes.append(f"{path} is left out: {error.problems[0].message}")
    return runs, notes
