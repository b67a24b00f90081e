"""Tab completion: the overrides that could stand where the cursor is. The shell scripts that ask are Hydra's.

Hydra's own completion crashes on a verb, offers schemas as choices, and does not know the values of a setting.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from bigtrain.config.compose import Composition, compose_with_guesses
from bigtrain.config.hints import known_keys
from bigtrain.config.library import Request
from bigtrain.config.plugins import load_plugins, take_plugins
from bigtrain.config.schema import field_types, is_group, node_type, without_none
from bigtrain.config.verbs import DEFAULT, VERBS
from bigtrain.errors import BigtrainError


def complete(line: str) -> list[str]:
    """Completions of the last word of a command line, which begins with the program's name."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:
        return []  # inside an open quote
    current = "" if line[-1:].isspace() or not words else words.pop()
    if not words and current in ("python", "-m"):
        return []
    offered = [f"{verb} " for verb in VERBS] if not words else []
    verb = words.pop(0) if words and words[0] in VERBS else DEFAULT
    composition = _compose(verb, words)
    if composition is None:
        return []
    prefix = current[: len(current) - len(current.lstrip("+~"))]
    for candidate in (*offered, *_candidates(composition, current.lstrip("+~"))):
        if (prefix + candidate).startswith(current):
            offered.append(prefix + candidate)
    return sorted({item.rstrip() for item in offered if item.startswith(current)})


def _compose(verb: str, words: list[str]) -> Composition | None:
    """The composition of the overrides typed so far; without any where they do not compose yet."""
    for attempt in ([word for word in words if "=" in word and not word.startswith("-")], []):
        try:
            plugins, rest = take_plugins(attempt)
            load_plugins(plugins)
            return compose_with_guesses(Request(verb, rest))
        except BigtrainError:
            continue
    return None


def _candidates(composition: Composition, current: str) -> Iterable[str]:
    key, equals, _ = current.partition("=")
    if equals:
        yield from (f"{key}={value}" for value in _values(composition, key))
        return
    yield "plugins="
    yield from (f"{group}=" for group in composition.offered if composition.list_choices(group))
    keys = list(known_keys(composition.tree.config))
    nodes = {name.rpartition(".")[0] for name in keys}
    for name in keys:
        depth_shown = name.count(".") <= current.count(".")
        if depth_shown and not (name in composition.offered and name not in nodes):
            yield f"{name}." if name in nodes else f"{name}="


def _values(composition: Composition, key: str) -> Iterable[str]:
    if key in composition.offered:
        return composition.list_choices(key)
    node, *_, name = composition.tree.config, *key.split(".")
    for part in key.split(".")[:-1]:
        if not is_group(field_types(node_type(node)).get(part)):
            return []
        node = node[part]
    hint = without_none(field_types(node_type(node)).get(name))
    if hint is bool:
        return ["true", "false"]
    return list(getattr(hint, "__members__", ()))
