"""A config as plain JSON: what run directories and checkpoints keep, and the strict way back.

    {"seed": 0, …, "model": {…}, "_bigtrain_": {"version": 2, "kinds": {"model": "cnn", …}, "choices": {…}}}

The mark also names the plug-ins that were on, where there were any: only to say which one is missing later.

References inside the config are resolved, `${oc.env:NAME}` is kept (paths belong to a machine), and secrets
are redacted. Reading it names no code: classes come from the registries by name, and every key must be known.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from bigtrain.config.overrides import escape
from bigtrain.config.plugins import loaded_plugins
from bigtrain.config.redact import redact
from bigtrain.config.run import RunConfig
from bigtrain.config.schema import field_types, is_group, node_type, register_parts
from bigtrain.config.settings import find_problems
from bigtrain.config.strict import Origin, SettingsTree, StrictTree
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import ConfigError, PluginMissing, Problem, nearest
from bigtrain.registry import REGISTRIES

MARK = "_bigtrain_"
VERSION = 2

_REFERENCE = re.compile(r"\$\{([^${}:]*)\}")


def to_document(tree: SettingsTree, config: Any, choices: dict[str, str]) -> dict[str, Any]:
    """The JSON form of a tree and of the dataclasses made from it."""
    resolved = OmegaConf.to_container(tree.config, resolve=True, enum_to_str=True)
    document: dict[str, Any] = redact(_keep_environment(tree.config, tree.raw(), resolved, ""))
    registries = REGISTRIES.items() if isinstance(config, RunConfig) else ()
    kinds = {kind: registry.entry_of(getattr(config, kind)).name for kind, registry in registries}
    document[MARK] = {"version": VERSION, "kinds": kinds, "choices": dict(choices)}
    if plugins := [plugin.name for plugin in loaded_plugins()]:
        document[MARK]["plugins"] = plugins
    return document


def document_text(document: dict[str, Any]) -> str:
    """The text of config.yaml; `read_document` reads it back."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000)


def load_config(path: Path) -> RunConfig:
    """The config of a run or checkpoint, .yaml or .json. Raises ConfigError naming the file."""
    return config_from_document(read_document(path), str(path))


def config_from_document(document: dict[str, Any], source: str = "the saved config") -> RunConfig:
    """Strict inverse of `to_document`.

    Raises ConfigError for unknown or missing keys, wrong types and environment variables that are not set.
    """
    return to_config(tree_from_document(document, source))


def tree_from_document(document: dict[str, Any], source: str) -> SettingsTree:
    """The typed tree of a saved training config."""
    register_parts()
    mark = document.get(MARK) if isinstance(document, dict) else None
    if not isinstance(mark, dict) or mark.get("version") != VERSION or not isinstance(mark.get("kinds"), dict):
        fix = "it was written by another version of bigtrain, or is not a run's config"
        raise ConfigError.of("CONFIG-FILE", f"{source} is not a saved config of version {VERSION}", fix=fix)
    tree = SettingsTree("train", lambda kind: {})
    tree.add_schema(OmegaConf.structured(RunConfig))
    for kind, registry in REGISTRIES.items():
        name = mark["kinds"].get(kind)
        if not isinstance(name, str) or name not in registry:
            _refuse_missing_plugin(f"{source} has {kind}={name}", mark.get("plugins"))
            near = nearest(str(name), registry.names()) or registry.names()
            raise ConfigError.of(
                "CONFIG-FILE",
                f"{source} names the {kind} {name!r}, which is not registered",
                fix=", ".join(near),
            )
        tree.add_schema(OmegaConf.create({kind: OmegaConf.structured(registry[name].config_class)}))
    content = {key: value for key, value in with_later_settings(document).items() if key != MARK}
    tree.assign(content, Origin(file=source))
    for key in _missing(tree.config, content, ""):
        tree.problems.append(Problem("CONFIG-KEY", f"{key} is missing", source, "the file is incomplete", key=key))
    if tree.problems:
        raise ConfigError(*tree.problems)
    return tree


def with_later_settings(document: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the settings that have come since, as `setting(before=)` has them."""
    register_parts()
    kinds = document[MARK]["kinds"]
    nodes = {kind: registry[kinds[kind]].config_class for kind, registry in REGISTRIES.items()}
    return _with_later(document, RunConfig, nodes)


def _with_later(node: Any, kind: type, groups: dict[str, type]) -> Any:
    if not isinstance(node, dict):
        return node
    filled = dict(node)
    hints = field_types(kind) | groups
    for field in dataclasses.fields(kind):
        before = field.metadata.get("before", dataclasses.MISSING)
        if field.name not in node and before is not dataclasses.MISSING:
            filled[field.name] = before
        elif field.name in node and is_group(hints[field.name]):
            filled[field.name] = _with_later(node[field.name], hints[field.name], {})
    return filled


def _refuse_missing_plugin(what: str, saved: Any) -> None:
    """Raises PluginMissing when plug-ins that were on are off now. Their names are only shown, never imported."""
    names = saved if isinstance(saved, list) else []
    on = {plugin.name for plugin in loaded_plugins()}
    off = [name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.]{1,200}", name) and name not in on]
    if off:
        word = f"plugins=[{','.join(off)}]"
        fix = f"add {word}, or install the package that brings it"
        cause = f"trained with {word}"
        raise PluginMissing.of("PLUGIN-MISSING", f"{what}, which came from a plug-in", cause=cause, fix=fix)


def to_config(tree: StrictTree) -> Any:
    """The dataclasses of a tree. Raises ConfigError with every value that is missing or can't be resolved."""
    resolved = copy.deepcopy(tree.config)
    problems = list(_unresolved(tree, resolved, ""))
    if problems:
        raise ConfigError(*problems)
    config: Any = OmegaConf.to_object(resolved)
    if hasattr(config, "extra"):
        config.extra = OmegaConf.to_container(tree.config.extra, resolve=True, enum_to_str=True)
    return config


def checked(tree: StrictTree) -> Any:
    """The dataclasses of a tree that stands alone. Raises ConfigError with everything that is wrong with the values."""
    if tree.problems:
        raise ConfigError(*tree.problems)
    config = to_config(tree)
    if problems := find_problems(config):
        raise ConfigError(*(dataclasses.replace(problem, cause=tree.cause_of(problem.key)) for problem in problems))
    return config


def flatten(document: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key → value; lists are values, and so is an empty group."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat


def plain_settings(document: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Dotted key → value, of kinds that TensorBoard's hparams tab takes; what is none is written out."""
    flat = flatten({key: value for key, value in document.items() if key != MARK})
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in flat.items()}


def _unresolved(tree: StrictTree, node: Any, path: str) -> Iterator[Problem]:
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        where = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(node, key):
            yield Problem("CONFIG-VALUE", f"{where} has no value", fix=f"give it: {where}=…", key=where)
            continue
        try:
            value = node[key]
            if OmegaConf.is_interpolation(node, key) and typing.get_origin(_hint(node, key)) is list:
                node[key] = OmegaConf.to_container(value, resolve=True)  # OmegaConf checks single values only
        except (OmegaConfBaseException, RecursionError, ValueError) as error:
            raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
            message = f"{where} is {raw}, which {_reason(error)}"
            yield Problem("CONFIG-VALUE", message, tree.cause_of(where), "correct the reference", key=where)
            continue
        if isinstance(value, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(node, key):
            yield from _unresolved(tree, value, where)


def _hint(node: Any, key: Any) -> Any:
    kind = node_type(node)
    return field_types(kind).get(key) if dataclasses.is_dataclass(kind) else None


def _reason(error: Exception) -> str:
    text = str(error)
    if variable := re.search(r"Environment variable '([^']*)' not found", text):
        return f"needs the environment variable {variable[1]}, and it is not set"
    if reference := re.search(r"Interpolation key '([^']*)' not found", text):
        return f"points to {reference[1]}, and there is no such key"
    if isinstance(error, RecursionError):
        return "points to itself"
    if isinstance(error, InterpolationResolutionError) and "recursive" in text.lower():
        return "points to itself"
    return "does not give a value of the right type"


def _keep_environment(config: DictConfig, raw: Any, resolved: Any, path: str) -> Any:
    if isinstance(raw, dict):
        prefix = f"{path}." if path else ""
        return {str(key): _keep_environment(config, raw[key], resolved[key], f"{prefix}{key}") for key in raw}
    if isinstance(raw, list):
        pairs = enumerate(zip(raw, resolved, strict=True))
        return [_keep_environment(config, item, value, f"{path}.{index}") for index, (item, value) in pairs]
    if isinstance(raw, str) and _reads_environment(config, raw, path, frozenset()):
        return raw
    return escaped(resolved)


def _reads_environment(config: DictConfig, text: str, path: str, seen: frozenset[str]) -> bool:
    """Whether a text copies something out of the environment, itself or through what it points to."""
    if "oc.env" in text:
        return "${" in text
    for match in _REFERENCE.finditer(text):
        target = _absolute(match[1].strip(), path)
        if target in seen:
            continue
        parent, _, key = target.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if node is None or not OmegaConf.is_config(node):
            continue
        raw = OmegaConf.to_container(node, resolve=False)
        value = raw.get(key) if isinstance(raw, dict) else raw
        texts = [item for item in flatten({"": value}).values() if isinstance(item, (str, list))]
        if any(_reads_environment(config, str(item), target, seen | {target}) for item in texts):
            return True
    return False


def _absolute(reference: str, path: str) -> str:
    """`.b` at `a.x` is `a.b`; `..b` goes up once more."""
    up = len(reference) - len(reference.lstrip("."))
    if not up:
        return reference
    return ".".join([*path.split(".")[:-up], reference[up:]])


def escaped(value: Any) -> Any:
    """Plain content with every text escaped, so that none is read as a reference."""
    if isinstance(value, dict):
        return {str(key): escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value


def _missing(node: DictConfig, content: Any, path: str) -> Iterator[str]:
    for key, hint in field_types(node_type(node)).items():
        if not isinstance(content, dict) or key not in content:
            yield path + key
        elif is_group(hint):
            yield from _missing(node[key], content[key], f"{path}{key}.")
