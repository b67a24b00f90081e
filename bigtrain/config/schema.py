"""Which settings exist, read from the dataclasses: their paths for YAML, their fields, their types in words."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from omegaconf import OmegaConf

import bigtrain
from bigtrain.config.verbs import VERBS
from bigtrain.registry import REGISTRIES

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    Any: ("a plain value, or a reference such as ${other.key}", ""),
}


@functools.cache
def settings_classes() -> dict[str, type]:
    """Path → settings class, of all that a YAML file can name: `schema/run`, `schema/model/cnn`.

    They stand below `schema/`, not beside the YAML files, where they would show up as choices.
    """
    register_parts()
    roots = {verb.schema: verb.settings for verb in VERBS.values()}
    parts = {
        f"schema/{kind}/{entry.name}": entry.config_class for kind, registry in REGISTRIES.items() for entry in registry
    }
    return {**roots, **parts}


@functools.cache
def register_parts() -> None:
    """Imports every `config.py` of the package; these register the parts. Later calls do nothing."""
    for module in pkgutil.walk_packages(bigtrain.__path__, "bigtrain."):
        if module.name.endswith(".config") and not module.ispkg:
            importlib.import_module(module.name)


@functools.cache
def field_types(config_class: type) -> dict[str, Any]:
    """Key → its resolved type, in the order of declaration. Hydra's `_target_`, which names code, is no setting."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class) if field.name != "_target_"}


def node_type(node: Any) -> type:
    """The settings class of a node of a typed tree; dict where it is untyped."""
    return OmegaConf.get_type(node) or dict


def is_group(hint: Any) -> bool:
    """Whether a field of this type holds a group of settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def named_group(hint: Any) -> type | None:
    """The class of the groups that a field holds by name: Stage of dict[str, Stage]."""
    of = (*typing.get_args(hint), None, None)[1]
    return of if typing.get_origin(hint) is dict and is_group(of) else None


def without_none(hint: Any) -> Any:
    """`int | None` → `int`; anything else unchanged."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def describe_type(hint: Any) -> str:
    """A type in a user's words: `int | None` → "a whole number, or null"."""
    inner = without_none(hint)
    if len(several := [part for part in typing.get_args(hint) if part in _WORDS]) > 1 and inner in several:
        return f"{', '.join(_WORDS[part][0] for part in several)}, or null"
    if isinstance(inner, type) and issubclass(inner, Enum):
        words = "one of " + ", ".join(inner.__members__)
    elif typing.get_origin(inner) is list:
        of = _WORDS.get(typing.get_args(inner)[0])
        words = f"a list of {of[1]} in brackets, such as [a,b]" if of else "a list of groups"
    elif typing.get_args(inner) == (str, Any) or is_group(inner) or named_group(inner):
        words = "a group of settings"
    elif typing.get_origin(inner) is dict:
        words = f"{_WORDS[typing.get_args(inner)[1]][1]} by name in braces, such as {{a: 1, b: 2}}"
    else:
        words = _WORDS[inner][0] if inner in _WORDS else "of another type"
    return words if inner is hint else f"{words}, or null"


def leaves(config_class: type, path: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every single setting below a class, as (dotted key, field, type); parts chosen by a group left out."""
    for field in dataclasses.fields(config_class):
        hint = field_types(config_class)[field.name]
        if is_group(hint):
            yield from leaves(hint, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", field, hint


def field_at(config_class: type, key: str) -> tuple[dataclasses.Field, Any] | None:
    """The field and type of a dotted key that needs no group choice to be known, or None."""
    return next(((field, hint) for path, field, hint in leaves(config_class) if path == key), None)
