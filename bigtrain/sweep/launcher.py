"""How the jobs of `-m` are started: `hydra/launcher=` and `hydra.launcher.*`, read strictly.

Without `hydra/launcher=` the jobs are processes of this machine, `hydra.launcher.n_jobs` of them at a time. With
submitit_slurm or submitit_local they are submitted by submitit, and the settings are those of Hydra's own plug-in,
read off its dataclasses where it is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigtrain.config.hints import did_you_mean
from bigtrain.config.hydra_adapter import Override, submitit_settings
from bigtrain.config.schema import describe_type, field_types
from bigtrain.config.settings import find_problems, setting
from bigtrain.config.strict import show
from bigtrain.errors import ConfigError, Problem, nearest

SUBMITIT = {"submitit_local": "LocalQueueConf", "submitit_slurm": "SlurmQueueConf"}
"""Name of the launcher → the dataclass of its settings in hydra_plugins.hydra_submitit_launcher.config."""

# A job is one command, which is not sent again by itself; and no text of a config runs in a shell.
_ONLY: dict[str, tuple[Any, str]] = {
    "nodes": (1, "training on several nodes comes later"),
    "tasks_per_node": (1, "a job is one command, which starts its own processes"),
    "max_num_timeout": (0, "a job that timed out has saved its state; go on with resume="),
    "setup": (None, "run it in the shell before bigtrain: the jobs inherit its environment"),
}


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
    """The launcher that these words choose. Raises ConfigError with everything that is wrong with them."""
    name, given = "processes", []
    for override in overrides:
        if override.key_or_group == "hydra/launcher":
            name = _checked_name(override)
        else:
            given.append(override)
    config_class = Processes if name == "processes" else _submitit_class(name)
    settings = OmegaConf.structured(config_class)
    problems = [problem for override in given if (problem := _set(settings, config_class, name, override))]
    if name == "processes" and not problems:
        found = find_problems(OmegaConf.to_object(settings), "hydra.launcher")
        problems += [dataclasses.replace(problem, cause="command line") for problem in found]
    if problems:
        raise ConfigError(*problems)
    raw: dict[str, Any] = OmegaConf.to_container(settings, resolve=False)  # type: ignore[assignment]
    # A default that refers to Hydra's own node (the folder, the name of the job) is for the launcher to fill in.
    plain = {key: value for key, value in raw.items() if not (isinstance(value, str) and "${" in value)}
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


def _set(settings: Any, config_class: type, name: str, override: Override) -> Problem | None:
    cause = f'command line, "{override.input_line}"'
    key, value = override.key_or_group.removeprefix("hydra.launcher."), override.value()
    types = {field: hint for field, hint in field_types(config_class).items() if field != "_target_"}
    full = f"hydra.launcher.{key}"
    if key not in types or override.is_delete():
        near = did_you_mean([f"hydra.launcher.{option}={value}" for option in nearest(key, types)])
        listed = f"the settings there are {', '.join(types)}"
        if name == "processes" and not near:
            listed += f"; more come with hydra/launcher={' or '.join(SUBMITIT)}"
        return Problem("CONFIG-LAUNCHER", f"{full} is not a setting of the launcher", cause, near or listed)
    only, why = _ONLY.get(key, (value, ""))
    if value != only:
        return Problem("CONFIG-LAUNCHER", f"{full} can only be {show(only)}", cause, why)
    if _has_control_characters(value):  # a line of its own in a batch script would be run
        return Problem("CONFIG-LAUNCHER", f"{full} holds a control character or a reference", cause, "write plain text")
    try:
        settings[key] = value
    except OmegaConfBaseException:
        allowed = "a group of values" if isinstance(settings[key], dict) else _allowed(types[key])
        return Problem("CONFIG-LAUNCHER", f"{full} is {show(value)}", cause, f"it must be {allowed}")
    return None


def _allowed(hint: Any) -> str:
    try:
        return describe_type(hint)
    except KeyError:  # a type that no setting of ours has
        return "of another type"


def _has_control_characters(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_control_characters(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(_has_control_characters(item) for item in value)
    return isinstance(value, str) and ("${" in value or not value.isprintable())
