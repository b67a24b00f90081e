"""Overrides → an experiment: a YAML that `experiment=NAME` chooses, with the same settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from bigtrain.config.compose import compose
from bigtrain.config.library import Request
from bigtrain.registry import REGISTRIES


def experiment_text(request: Request, heading: str) -> str:
    """The parts that these overrides choose, and every setting that is not what comes with the parts.

    `heading`: a comment, one line. Raises ConfigError where the overrides can't be composed.
    """
    composition = compose(request)
    parts = {kind: composition.choices[kind] for kind in REGISTRIES if kind in composition.choices}
    bare = compose(dataclasses.replace(request, overrides=tuple(f"{kind}={choice}" for kind, choice in parts.items())))
    settings = composition.tree.raw()
    content = {"defaults": [{f"override /{kind}": choice} for kind, choice in parts.items()]}
    content |= {"name": settings["name"]} | _difference(bare.tree.raw(), settings)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    return f"# @package _global_\n# {' '.join(heading.split())}\n{text}"


def _difference(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in now.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            if inner := _difference(before[key], value):
                found[key] = inner
        elif key not in before or before[key] != value:
            found[key] = value
    return found
