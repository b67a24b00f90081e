"""How the jobs of `-m` are started: `hydra/launcher=` and `hydra.launcher.*`, read strictly.

Without `hydra/launcher=` the jobs are processes of this machine, `hydra.launcher.n_jobs` of them at a time. With
submitit_slurm or submitit_local they are submitted by submitit, and the settings are those of Hydra's own plug-in,
read off its dataclasses where it is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from bigtrain.config.hints import did_you_mean
from bigtrain.config.hydra_adapter import Override, submitit_settings
from bigtrain.config.saved import checked
from bigtrain.config.settings import setting
from bigtrain.config.strict import StrictTree, show
from bigtrain.errors import ConfigError, Problem, nearest

SUBMITIT = {"submitit_local": "LocalQueueConf", "submitit_slurm": "SlurmQueueConf"}
"""Name of the launcher → the dataclass of its settings in hydra_plugins.hydra_submitit_launcher.config."""

# No text of a config runs in a shell.
_ONLY: dict[str, tuple[Any, str]] = {
    "setup": (None, "run it in the shell before bigtrain: the jobs inherit its environment"),
}
_ONLY_HERE: dict[str, tuple[Any, str]] = {
    "nodes": (1, "several machines come with hydra/launcher=submitit_slurm"),
    "tasks_per_node": (1, "several ranks on this machine: trainer.processes=N or trainer.gpus=N"),
    "max_num_timeout": (0, "a job that timed out has saved its state; go on with resume="),
}
"""What no job of submitit_local can be."""


@dataclasses.dataclass
class Processes:
    """Processes of this machine."""

    n_jobs: int = setting(1, "Jobs that run at the same time.", at_least=1)


@dataclasses.dataclass(frozen=True)
class Launcher:
    """`name`: processes, submitit_local or submitit_slurm; `settings`: the fields of its dataclass, as given."""

    name: str
    settings: dict[str, Any]


def read_launcher(overrides: Iterable[Override]) -> Launcher:
    """The launcher that these overrides choose. Raises ConfigError with everything that is wrong with them."""
    name, given = "processes", []
    for override in overrides:
        if override.key_or_group == "hydra/launcher":
            name = _checked_name(override)
        else:
            given.append(override)
    others = f" (others come with hydra/launcher={' or '.join(SUBMITIT)})" if name == "processes" else ""
    tree = StrictTree.of(
        "hydra.launcher", Processes if name == "processes" else _submitit_class(name), "the launcher" + others
    )
    for override in given:
        if problem := _refusal(override, _ONLY if name == "submitit_slurm" else _ONLY | _ONLY_HERE):
            tree.problems.append(problem)
        else:
            tree.apply(override)
    if name == "processes" or tree.problems:
        checked(tree)
    # A default that refers to Hydra's own node (the folder, the name of the job) is for the launcher to fill in.
    settings = tree.raw()["hydra"]["launcher"].items()
    plain = {key: value for key, value in settings if not (isinstance(value, str) and "${" in value)}
    return Launcher(name, {key: value for key, value in plain.items() if key != "_target_"})


def _checked_name(override: Override) -> str:
    name, cause = str(override.value()), f'command line, "{override.input_line}"'
    if name not in SUBMITIT:
        near = did_you_mean([f"hydra/launcher={option}" for option in nearest(name, SUBMITIT)])
        listed = f"choices: {', '.join(SUBMITIT)}; without it, jobs are processes of this machine"
        fix = f"{near} ({listed})" if near else listed
        raise ConfigError.of("CONFIG-LAUNCHER", f"hydra/launcher={name} is not a choice", cause=cause, fix=fix)
    return name


def _submitit_class(name: str) -> type:
    try:
        config = submitit_settings()
    except ImportError as error:
        fix = "pip install 'bigtrain[slurm]'"
        message = f"hydra/launcher={name} needs hydra-submitit-launcher, which is not installed"
        raise ConfigError.of("CONFIG-LAUNCHER", message, fix=fix) from error
    found: type = getattr(config, SUBMITIT[name])
    return found


def _refusal(override: Override, limits: dict[str, tuple[Any, str]]) -> Problem | None:
    """What a launcher's setting may not be, whatever its type allows: `limits` has the one value that it may be."""
    key, value, cause = override.key_or_group, override.value(), f'command line, "{override.input_line}"'
    only, why = limits.get(key.removeprefix("hydra.launcher."), (value, ""))
    if value != only:
        return Problem("CONFIG-LAUNCHER", f"{key} can only be {show(only)}", cause, why, key=key)
    if _has_control_characters(value):  # a line of its own in a batch script would be run
        message = f"{key} holds a control character or a reference"
        return Problem("CONFIG-LAUNCHER", message, cause, "write plain text", key=key)
    return None


def _has_control_characters(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_control_characters(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(_has_control_characters(item) for item in value)
    return isinstance(value, str) and ("${" in value or not value.isprintable())
