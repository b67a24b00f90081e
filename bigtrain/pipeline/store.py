"""Where the steps of a pipeline are kept, by what they depend on: what was run once is not run again. No torch.

    <output_dir>/<name>/stages/<stage>-<10 hex>/      a run directory; of an evaluation, its eval.json

The digits are those of the step's key: a hash of its settings, of its data's fingerprint, and of the key of the step
that it starts from. So a changed setting reruns what depends on it and nothing else, and a pipeline that was killed
finds its interrupted run again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.config.resume import FREE_KEYS
from bigtrain.config.saved import MARK, flatten
from bigtrain.pipeline.plan import Step
from bigtrain.storage.durable import sha256_of
from bigtrain.storage.run_directory import Status, is_run_directory

EVALUATION = "eval.json"

# What a run does not depend on, or what stands in its key by its content. How often it is evaluated, its best does.
_WITHOUT_EFFECT = {"name", "output_dir", "resume", "init_from", "checkpoint", "data.cache_dir", "data.audit"}
_WITHOUT_EFFECT |= {"scheduler.extend"}  # false in every run that a stage begins
_WITHOUT_EFFECT |= set(FREE_KEYS) - {"trainer.eval_every"}
_NODES_WITHOUT_EFFECT = ("tracking.", "extra.", f"{MARK}.")


@dataclass
class Outcome:
    """A step that has ended: where it lies and what came out. `metrics`: "val/loss", "test/accuracy", …"""

    step: Step
    key: str
    place: Path
    how: str  # "run", "continued", "reused"
    metrics: dict[str, float] = field(default_factory=dict)
    best_metric: str = ""  # "val/accuracy": what chose the weights
    best_step: int | None = None
    higher_is_better: bool = False
    cost: dict[str, float] = field(default_factory=dict)  # "seconds", "samples", "tokens", "flops"
    seen: list[str] = field(default_factory=list)  # which of its samples an earlier stage was trained on


def key_of(step: Step, data_fingerprint: str, parent_key: str, start_hash: str) -> str:
    """The sha256 of everything that the step's result depends on, in hex."""
    document = step.composed.document
    settings = {
        key: value
        for key, value in flatten(document).items()
        if key not in _WITHOUT_EFFECT and not key.startswith(_NODES_WITHOUT_EFFECT)
    }
    facts = {
        "settings": settings,
        "kinds": document.get(MARK, {}).get("kinds"),
        "data": data_fingerprint,
        "parent": parent_key,
        "start": start_hash,
        "control": step.control_of is not None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def start_hash(start: Path) -> str:
    """Of what `init_from` names outside the pipeline: of all its files, or of a checkpoint's manifest."""
    manifest = start / "manifest.json"
    files = [manifest] if manifest.is_file() else sorted(path for path in start.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files).encode()).hexdigest()


def place_of(root: Path, step: Step, key: str) -> Path:
    """The directory of a step."""
    return root / "stages" / f"{step.stage}-{key[:10]}"


def state_of(place: Path, trains: bool) -> str:
    """finished, begun or new."""
    if not trains:
        return "finished" if (place / EVALUATION).is_file() else "new"
    if not is_run_directory(place):
        return "new"
    return "finished" if Status(place).get("state") == "finished" else "begun"


def read_outcome(step: Step, key: str, place: Path, how: str) -> Outcome:
    """The outcome of a step that is finished, from its files."""
    outcome = Outcome(step, key, place, how)
    if not step.trains:
        report = json.loads((place / EVALUATION).read_text())
        outcome.metrics = _numbers(report["metrics"], f"{report['split']}/")
        return outcome
    status = Status(place)
    best: dict[str, Any] = status.get("best") or {}
    outcome.metrics = _numbers(status.get("metrics") or {})
    outcome.cost = _numbers(status.get("cost") or {})
    outcome.best_metric, outcome.best_step = str(best.get("name") or ""), best.get("step")
    outcome.higher_is_better = best.get("higher_is_better") is True
    return outcome


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """What are numbers among JSON values; "nan" and "inf" are written as text there."""
    numbers = {}
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) or isinstance(value, str):
            numbers[prefix + name] = float(value)
    return numbers
