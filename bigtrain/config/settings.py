"""How a setting is declared and checked: default, meaning and range in one line, beside its dataclass.

    hidden_size: int = setting(128, "Width D of the residual stream.", at_least=1)

The ranges are checked by `find_problems`, which walks a tree of such dataclasses and collects everything that
is wrong, so that a user sees all of it at once. A class adds checks across its fields by a method
`problems(self) -> list[Invalid]`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from bigtrain.config.durations import parse_duration, with_unit
from bigtrain.errors import Problem


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    duration: str = "",
    choices: tuple[str, ...] | None = None,
    verbatim: bool = False,
    path: bool = False,
    one_or_more: bool = False,
    extensible: bool = False,
    before: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its meaning (unit included) and its range.

    Lists and dicts are copied per instance. `duration`: "part" of the training, which may be a share of it; the
    "whole" of it; or a "time". `verbatim`: free text; on the command line everything after = is taken as it stands.
    `one_or_more`: of a list; a single value stands for a list of it. `extensible`: of groups by name; an override may
    add one. `before`: the value of configs that were saved
    before there was this setting.
    """
    metadata = {
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "below": below,
        "duration": duration,
        "choices": choices,
        "verbatim": verbatim,
        "path": path,
        "one_or_more": one_or_more,
        "extensible": extensible,
        "before": before,
    }
    if isinstance(default, (list, dict)) or (isinstance(default, type) and dataclasses.is_dataclass(default)):
        factory = default if isinstance(default, type) else lambda: default.copy()
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Invalid(NamedTuple):
    """A field with a wrong value, and the rest of the sentence about it: Invalid("depth", "is 7; it must be even")."""

    field: str
    sentence: str


def walk(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass node of a tree with its dotted path, the root first."""
    yield path, config
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{path}.{field.name}" if path else field.name
        groups = {f"{key}.{name}": group for name, group in value.items()} if isinstance(value, dict) else {key: value}
        for below, group in groups.items():
            if dataclasses.is_dataclass(group) and not isinstance(group, type):
                yield from walk(group, below)


def find_problems(config: Any, path: str = "") -> list[Problem]:
    """Everything that is out of range in a tree of settings, each with its key, value and what is allowed.

    `problems()` of a plug-in may still return sentences that begin with the field's name, as before 0.2; remove in 0.3.
    """
    found = []
    for node_path, node in walk(config, path):
        prefix = f"{node_path}." if node_path else ""
        for field in dataclasses.fields(node):
            if sentence := _range_problem(field, getattr(node, field.name)):
                key, fix = prefix + field.name, field.metadata.get("help", "")
                found.append(Problem("CONFIG-VALUE", f"{key} {sentence}", fix=fix, key=key))
        for invalid in node.problems() if hasattr(node, "problems") else ():
            name, sentence = invalid.partition(" ")[::2] if isinstance(invalid, str) else invalid
            found.append(Problem("CONFIG-VALUE", f"{prefix}{name} {sentence}", key=prefix + name))
    return found


def _duration_problem(value: str, kind: str) -> str:
    try:
        parsed = parse_duration(value)
    except ValueError as error:
        return f"is {value}, which has no unit" if with_unit(value, kind) else str(error)
    if kind == "time" and not parsed.seconds:
        return f"is {value}; it must be a time above 0: 90s, 30min, 2h"
    if kind == "whole" and parsed.unit == "share":
        return f"is {value}, but it is the whole that shares are of; give it as 2000step, 3epoch, 10Mtok or 30min"
    return ""


def _range_problem(field: dataclasses.Field, value: Any) -> str:
    limits = field.metadata
    if value is None or not limits:
        return ""
    if limits["duration"]:
        return _duration_problem(value, limits["duration"])
    if limits["choices"] and value not in limits["choices"]:
        return f"is {value!r}; allowed: {', '.join(limits['choices'])}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    allowed = [
        (limits["at_least"], lambda limit: value >= limit, "at least"),
        (limits["above"], lambda limit: value > limit, "above"),
        (limits["at_most"], lambda limit: value <= limit, "at most"),
        (limits["below"], lambda limit: value < limit, "below"),
    ]
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; it must be finite"
    bounds = [(limit, holds, word) for limit, holds, word in allowed if limit is not None]
    if not all(holds(limit) for limit, holds, _ in bounds):
        return f"is {value}; it must be " + " and ".join(f"{word} {limit:g}" for limit, _, word in bounds)
    return ""
