"""Plug-ins: packages of others whose models, data, tasks, optimizers and schedules join ours.

Importing such a package registers its parts (`MODELS.register(…)` in a torch-free module), and its folder
`configs/`, where it has one, is searched for YAML like our own. A package comes in two ways: installed with an
entry point in the group `bigtrain.plugins` (then it is always on), or by `plugins=[my_package]` on the command
line. A saved config never imports anything: it only remembers the names, for a helpful sentence.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points  # 20 ms, and 5 ms to look through 70 installed packages
from pathlib import Path
from typing import Any

from bigtrain.config.schema import register_parts, settings_classes
from bigtrain.errors import ConfigError
from bigtrain.registry import RegisteredTwice

GROUP = "bigtrain.plugins"

_WORD = re.compile(r"plugins=\[?([\w.,\s]*)\]?")


@dataclass(frozen=True)
class Plugin:
    """A package that was imported: its name, and its folder of YAML files, where it has one."""

    name: str
    configs: Path | None


_loaded: dict[str, Plugin] = {}


def loaded_plugins() -> tuple[Plugin, ...]:
    """The plug-ins that are on, in the order they were loaded."""
    return tuple(_loaded.values())


def take_plugins(words: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Overrides → the packages that `plugins=` names, and the other overrides.

    Raises ConfigError where a name is not one of a Python package.
    """
    names: list[str] = []
    rest: list[str] = []
    for word in words:
        if not word.startswith("plugins="):
            rest.append(word)
            continue
        match = _WORD.fullmatch(word)
        listed = [name.strip() for name in match[1].split(",")] if match else []
        if not all(part.isidentifier() for name in listed for part in name.split(".")) or not listed:
            fix = "name Python packages that can be imported: plugins=[my_package]"
            raise ConfigError.of("PLUGIN-NAME", f"{word} names no package", cause=f'command line, "{word}"', fix=fix)
        names += listed
    return tuple(dict.fromkeys(names)), tuple(rest)


def load_plugins(names: Iterable[str]) -> None:
    """Imports the installed plug-ins, then the named ones.

    Raises ConfigError naming the package for one that is missing, fails, or registers a name that is taken.
    """
    register_parts()  # ours first: whoever takes a name of ours is the one to be told
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.module
        where = f'the installed package {package}, entry point "{point.name} = {point.value}"'
        _load(point.module, where, f"mend it, or take it away: pip uninstall {package}")
    for name in names:
        _load(name, f'command line, "plugins=[{name}]"', "")


def _load(name: str, where: str, fix: str) -> None:
    if name in _loaded:
        return
    try:
        module = importlib.import_module(name)
    except RegisteredTwice as error:
        message, fix = f"the plug-in {name} can't be used: {error}", "let it register another name"
        raise ConfigError.of("PLUGIN-NAME", message, cause=where, fix=fix) from error
    except Exception as error:  # whatever the code of others raises
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            message = f"the plug-in {name} is not installed"
            fix = fix or f"pip install it, or put the folder that holds {absent} on PYTHONPATH"
        else:
            message = f"the plug-in {name} can't be loaded: {_sentence(error)}"
            fix = fix or "mend it, or leave it out"
        raise ConfigError.of("PLUGIN-BROKEN", message, cause=where, fix=fix) from error
    _loaded[name] = Plugin(name, _configs_of(module))
    settings_classes.cache_clear()


def _sentence(error: Exception) -> str:
    """The error, and the line of the plug-in's code that it comes from."""
    reason = (str(error).splitlines() or [""])[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {reason}{place}"


def _configs_of(module: Any) -> Path | None:
    """`<package>/configs` of a package, or of the package that a module lies in."""
    package = module if hasattr(module, "__path__") else importlib.import_module(module.__package__ or module.__name__)
    folders = (Path(place) / "configs" for place in getattr(package, "__path__", ()))
    return next((folder for folder in folders if folder.is_dir()), None)
