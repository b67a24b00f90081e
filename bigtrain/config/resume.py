"""Going on with a run: its own saved config, and the few settings that may change on the way.

What changes the training is fixed, because a resumed run ends with the same bytes as one that was never
stopped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from bigtrain.config.saved import MARK, flatten, to_config, to_document, tree_from_document, with_later_settings
from bigtrain.config.schema import node_type
from bigtrain.config.strict import SettingsTree, show
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import ConfigError, Problem

FREE_KEYS = (
    "tags",
    *(f"data.{key}" for key in ("audit", "audit_limit", "audit_similarity")),
    *(f"trainer.{key}" for key in ("log_every", "eval_every", "eval_train", "save_every", "keep_last", "time_limit")),
    *(f"trainer.{key}" for key in ("gpus", "processes", "rank_timeout", "max_restarts", "profile", "find_nonfinite")),
)


@dataclasses.dataclass(frozen=True)
class ResumeInfo:
    """The run that is gone on with, and what was changed, each as a text: "trainer.log_every: 10 → 5"."""

    run_dir: Path
    differences: tuple[str, ...]


def resumed_tree(run_dir: Path, overrides: list[Override]) -> tuple[SettingsTree, dict[str, str], ResumeInfo]:
    """The saved tree of a run with the typed settings applied, its group choices, and the differences.

    Raises ConfigError for a damaged config, a key that is none, and a setting that may not change.
    """
    source = str(run_dir / "config.yaml")
    saved = read_document(run_dir / "config.yaml")
    tree = tree_from_document(saved, source)
    choices = saved[MARK].get("choices")
    choices = choices if isinstance(choices, dict) else {}
    problems = []
    for override in overrides:
        key, value = override.key_or_group, override.value()
        cause = f'command line, "{override.input_line}"'
        if key in choices and not isinstance(value, dict):
            if choices[key] != value:
                message = f"{key} is {choices[key]} in the run that is resumed"
                problems.append(Problem("RESUME-CHANGE", message, cause, f"leave {key} out, or start a new run"))
        elif key == "init_from":
            message = "init_from starts a new run from the weights of another, resume goes on with the same one"
            problems.append(Problem("CONFIG-COMBINATION", message, cause, "give one of the two"))
        else:
            tree.apply(override)
    problems += tree.problems
    if problems:
        raise ConfigError(*problems)
    differences = _differences(saved, to_document(tree, to_config(tree), choices))
    refused = [key for key in differences if not _may_change(key, tree)]
    if refused:
        raise ConfigError(*(_refusal(key, *differences[key], tree) for key in refused))
    texts = tuple(f"{key}: {show(before)} → {show(now)}" for key, (before, now) in differences.items())
    return tree, choices, ResumeInfo(run_dir, texts)


def refuse_other_training(checkpoint_config: dict[str, Any], document: dict[str, Any]) -> None:
    """The run's config.yaml was edited by hand since its checkpoint: refused, unless only free settings changed."""
    changed = [
        Problem(
            "RESUME-CHANGE",
            f"{key} is {show(now)} in the run's config.yaml, but the run was trained with {show(before)}",
            "config.yaml was changed since the checkpoint was written",
            f"put {show(before)} back, or start a new run with init_from=",
        )
        for key, (before, now) in _differences(checkpoint_config, document).items()
        if key not in (*FREE_KEYS, "trainer.max_duration", "init_from") and not key.startswith("tracking.")
    ]
    if changed:
        raise ConfigError(*changed)


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    saved = with_later_settings(saved)
    before, after = (flatten({key: value for key, value in tree.items() if key != MARK}) for tree in (saved, now))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys}


def _may_change(key: str, tree: SettingsTree) -> bool:
    if key == "trainer.max_duration":
        scheduler: Any = node_type(tree.config.scheduler)
        return not scheduler.needs_total_steps
    return key in FREE_KEYS or key.startswith("tracking.")


def _refusal(key: str, before: Any, now: Any, tree: SettingsTree) -> Problem:
    why = "the run would no longer end where it would have ended"
    if key == "trainer.max_duration":
        why = "its learning-rate schedule is laid out over the whole length"
    origin = tree.origins.get(key)
    return Problem(
        "RESUME-CHANGE",
        f"{key} was {show(before)} and can't become {show(now)} on resume: {why}",
        origin.describe(tuple(key.split("."))) if origin else "",
        f"leave {key} out, or start a new run with init_from=; free are {', '.join(FREE_KEYS)}, tracking.*",
    )
