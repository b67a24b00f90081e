"""Resuming a run: its own saved config, and the few settings that may change.

All others are fixed, because a resumed run ends with the same bytes as one that was never stopped.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from bigtrain.config.hydra_adapter import Override
from bigtrain.config.kinds import SchedulerConfig
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import MARK, flatten, to_config, to_document, tree_from_document, with_later_settings
from bigtrain.config.schema import node_type
from bigtrain.config.strict import SettingsTree, show
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import ConfigError, Problem

AUTO = "auto"
"""`resume=auto`: the newest run of this name, or a new one: a command that may be given again and again."""

FREE_KEYS = (
    "tags",
    *(f"data.{key}" for key in ("audit", "audit_limit", "audit_similarity")),
    *(f"trainer.{key}" for key in ("log_every", "eval_every", "eval_train", "save_every", "keep_last", "time_limit")),
    *(f"trainer.{key}" for key in ("gpus", "processes", "strategy", "tensor_parallel", "rank_timeout", "max_restarts")),
    *(f"trainer.{key}" for key in ("profile", "find_nonfinite")),
    *(f"trainer.{key}" for key in ("micro_batch_size", "activation_checkpointing", "allow_oversize")),
)

LENGTH_KEYS = ("trainer.max_duration", "trainer.early_stopping.patience", "trainer.early_stopping.min_delta")
"""Settings that say when the training ends. They may change on resume, which makes a finished run go on."""

_OF_A_SESSION = tuple(
    f"trainer.{key}"
    for key in (
        *("time_limit", "gpus", "processes", "strategy", "tensor_parallel"),
        *("rank_timeout", "max_restarts", "profile", "find_nonfinite"),
    )
)


@dataclasses.dataclass(frozen=True)
class ResumeInfo:
    """The run that is resumed, and what was changed, each as a text: "trainer.log_every: 10 → 5".

    `document` is the run's config from now on: with the changes, except those of this session only.
    """

    run_dir: Path
    differences: tuple[str, ...]
    other_length: bool
    document: dict[str, Any]


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
                fix = f"leave {key} out, or start a new run"
                problems.append(Problem("RESUME-CHANGE", message, cause, fix, key=key))
        elif key == "init_from":
            message = "init_from starts a new run from the weights of another, resume goes on with the same one"
            problems.append(Problem("CONFIG-COMBINATION", message, cause, "give one of the two", key=key))
        else:
            tree.apply(override)
    problems += tree.problems
    if problems:
        raise ConfigError(*problems)
    document = to_document(tree, to_config(tree), choices)
    differences = _differences(saved, document)
    refused = [key for key in differences if not _may_change(key, tree, differences)]
    if refused:
        raise ConfigError(*(_refusal(key, *differences[key], tree) for key in refused))
    texts = tuple(f"{key}: {show(before)} → {show(now)}" for key, (before, now) in differences.items())
    other_length = any(key in differences for key in LENGTH_KEYS)
    return tree, choices, ResumeInfo(run_dir, texts, other_length, _kept(saved, differences))


def extension_without_run(config: RunConfig) -> list[Problem]:
    """scheduler.extend, which makes a run longer, where no run is resumed."""
    if not config.scheduler.extend:
        return []
    key = "scheduler.extend"
    fix = f"resume=outputs/<name>/<run> trainer.max_duration=… {key}=true; or leave it out"
    return [Problem("CONFIG-COMBINATION", f"{key} is for a run that is gone on with", fix=fix, key=key)]


def refuse_other_training(checkpoint_config: dict[str, Any], document: dict[str, Any]) -> None:
    """The run's config.yaml was edited by hand since its checkpoint: refused, unless only free settings changed."""
    changed = [
        Problem(
            "RESUME-CHANGE",
            f"{key} is {show(now)} in the run's config.yaml, but the run was trained with {show(before)}",
            "config.yaml was changed since the checkpoint was written",
            f"put {show(before)} back, or start a new run with init_from=",
            key=key,
        )
        for key, (before, now) in _differences(checkpoint_config, document).items()
        if key not in (*FREE_KEYS, *LENGTH_KEYS, "scheduler.extend", "init_from") and not key.startswith("tracking.")
    ]
    if changed:
        raise ConfigError(*changed)


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    saved = with_later_settings(saved)
    before, after = (flatten({key: value for key, value in tree.items() if key != MARK}) for tree in (saved, now))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys}


def _kept(saved: dict[str, Any], differences: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The saved document with the changes, except those in `_OF_A_SESSION`."""
    document = copy.deepcopy(with_later_settings(saved))
    for key, (_, now) in differences.items():
        if key not in _OF_A_SESSION:
            node = document
            *above, name = key.split(".")
            for part in above:
                node = node[part]
            node[name] = now
    return document


def _may_change(key: str, tree: SettingsTree, differences: dict[str, tuple[Any, Any]]) -> bool:
    if key == "trainer.max_duration":
        scheduler: Any = node_type(tree.config.scheduler)
        extends = "scheduler.extend" in tree.typed and tree.config.scheduler.extend is True
        return extends or not scheduler.needs_total_steps
    if key == "scheduler.extend":
        return differences[key][1] is True and "trainer.max_duration" in differences
    return key in (*FREE_KEYS, *LENGTH_KEYS) or key.startswith("tracking.")


def _refusal(key: str, before: Any, now: Any, tree: SettingsTree) -> Problem:
    cause = tree.cause_of(key)
    if key == "trainer.max_duration":
        return length_problem(str(before), str(now), node_type(tree.config.scheduler), cause)
    if key == "scheduler.extend":
        message = "scheduler.extend lays the learning rate out for a longer training, but the length stays the same"
        return Problem("RESUME-CHANGE", message, cause, "give a longer trainer.max_duration, or leave it out", key=key)
    return Problem(
        "RESUME-CHANGE",
        f"{key} was {show(before)} and can't become {show(now)} on resume: the run would no longer end where it would "
        "have ended",
        cause,
        f"leave {key} out, or start a new run with init_from=; free are "
        f"{', '.join((*FREE_KEYS, *LENGTH_KEYS))}, tracking.*",
        key=key,
    )


def length_problem(before: str, now: str, schedule: type[SchedulerConfig], cause: str = "") -> Problem:
    """The problem of another length of the training, where the learning rate of each step depends on the length."""
    does = "the rate rises to its peak again and falls once more"
    if schedule().stable_steps(0, 1) is not None:
        does = "it goes back to the last checkpoint before the decay"
    return Problem(
        "RESUME-CHANGE",
        f"trainer.max_duration was {before} and can't become {now} just so: the learning rate was laid out over the "
        "whole length",
        cause,
        f"add scheduler.extend=true for a longer training ({does}); or start a new run with init_from=",
        key="trainer.max_duration",
    )
