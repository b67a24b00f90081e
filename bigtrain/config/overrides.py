"""The arguments of the command line → Hydra overrides, or problems.

Hydra's grammar decides how a value is read (`key=[1,2]`, `key=null`, `'key="a, b"'`), with two exceptions for
text: a setting declared `verbatim` (a prompt) takes everything after `=` as it stands, a `path` likewise
unless it refers to something (`${oc.env:HOME}/x`), and a text may hold commas.

With `-m` a comma, `choice(a,b)`, `range(1,4)` or `glob(*)` asks for several runs (sweep/jobs.py), and with
`sweep=optuna` an `interval(0,1)` too (sweep/search.py). A comma in a free text stays text there too, and in a path
unless each part is there (config/files.py); `choice(a,b)` sweeps over every setting.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from bigtrain.config.files import files_override, is_sweep_of_files
from bigtrain.config.hints import Guess, did_you_mean, rounds_for_value
from bigtrain.config.hydra_adapter import (
    HydraException,
    Override,
    is_comma_list,
    parse_override,
    quoted_text,
    text_override,
)
from bigtrain.config.schema import field_at, field_types, named_group, register_parts, without_none
from bigtrain.config.verbs import VERBS
from bigtrain.config.yaml_files import MAX_DEPTH
from bigtrain.errors import Problem, nearest
from bigtrain.registry import REGISTRIES

_PREFIX = re.compile(r"\+{0,2}")
_ASSIGNMENT = re.compile(r"[+~]{0,2}[\w.]+=")
_CHOICE = re.compile(r"[^=]+=choice\(.*\)", re.DOTALL)
_UNESCAPED = re.compile(r"(\\*)\$\{")


def parse_overrides(
    verb: str, arguments: Iterable[str], multirun: bool = False
) -> tuple[list[Override], list[Problem]]:
    """Reads every argument, and collects what can't be read. Several values in one need `multirun`."""
    register_parts()
    overrides, problems = [], []
    for word in arguments:
        override = None if multirun and _CHOICE.fullmatch(word) else _verbatim(verb, word, multirun)
        if isinstance(override, Problem):
            problems.append(override)
            continue
        if override is None:
            try:
                if _depth(word) > MAX_DEPTH:
                    raise ValueError("nested too deeply")
                override = parse_override(word)
            except (HydraException, RecursionError, ValueError) as error:
                problems.append(_unreadable(verb, word, str(error)))
                continue
            if is_comma_list(override) and _is_text(verb, override.key_or_group, free=multirun):
                override = text_override(override.key_or_group, word.partition("=")[2], word)
        problem = _unusable(override, word, multirun)
        if problem:
            problems.append(replace(problem, word=word))
        else:
            overrides.append(override)
    return overrides, problems


def take_paths(verb: str, arguments: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(paths, overrides). An override begins with a dotted key and =; a path may hold a = further on: a/lr=0.1."""
    arguments = tuple(arguments)
    paths = tuple(word for word in arguments if VERBS[verb].takes_paths and not _ASSIGNMENT.match(word))
    return paths, tuple(word for word in arguments if word not in paths)


def _depth(word: str) -> int:
    """How deep the brackets of a value are nested, quotes ignored."""
    depth = deepest = 0
    for letter in word:
        depth += (letter in "[{(") - (letter in ")}]")
        deepest = max(deepest, depth)
    return deepest


def escape(text: str) -> str:
    """Text that OmegaConf reads back as exactly `text`, also where it looks like an interpolation."""
    if "${" not in text:
        return text
    return _UNESCAPED.sub(lambda match: match[1] * 2 + "\\${", text)


def for_hydra(overrides: Iterable[Override], groups: Iterable[str]) -> list[str]:
    """The overrides as text that Hydra's own composition accepts, for its displays."""
    words = []
    for override in overrides:
        line = override.input_line or ""
        if override.is_delete() or override.is_hydra_override() or override.key_or_group in groups:
            words.append(line if override.is_delete() else _PREFIX.sub("", line, count=1))
        elif (quoted := quoted_text(override)) is not None:
            words.append(f"++{override.key_or_group}={quoted}")
        else:
            words.append("++" + _PREFIX.sub("", line, count=1))
    return words


def is_hydra(override: Override) -> bool:
    """Whether an override sets something of Hydra's own: `hydra.searchpath`, `hydra/launcher`."""
    return re.split(r"[./@]", override.key_or_group)[0] == "hydra"


def is_of_pipeline(word: str) -> bool:
    """Whether an override chooses a pipeline, or changes one (pipeline/definition.py)."""
    return word.lstrip("+").startswith(("pipeline=", "pipeline."))


def is_launcher(override: Override) -> bool:
    """Whether an override says how the jobs of `-m` are started."""
    return override.key_or_group == "hydra/launcher" or override.key_or_group.startswith("hydra.launcher.")


def is_sweep_setting(override: Override) -> bool:
    """Whether an override says what kind of sweep `-m` starts: `sweep=`, `sweep.*`."""
    return override.key_or_group == "sweep" or override.key_or_group.startswith("sweep.")


def fields_named(verb: str, key: str) -> list[tuple[Field, Any]]:
    """The settings that a dotted key may mean, with their types: of a group, whichever of its parts is chosen."""
    found = field_at(VERBS[verb].settings, key)
    kind, _, name = key.partition(".")
    candidates = [found] if found else []
    for entry in () if found or not VERBS[verb].describes_training else REGISTRIES.get(kind, ()):
        types = field_types(entry.config_class)
        candidates += [(field, types[name]) for field in fields(entry.config_class) if field.name == name]
        candidates += _of_named_groups(types, name)
    return candidates


def _of_named_groups(types: dict[str, Any], key: str) -> list[tuple[Field, Any]]:
    """The setting `path` that `sources.wiki.path` names, with its type."""
    head, _, rest = key.partition(".")
    group, last = named_group(types.get(head)), rest.partition(".")[2]
    return [(field, field_types(group)[last]) for field in fields(group) if field.name == last] if group else []


def _verbatim(verb: str, word: str, multirun: bool) -> Override | Problem | None:
    """The override of a text or path that is taken as it stands; of several paths with `multirun`; None for others."""
    key, equals, value = word.partition("=")
    key = _PREFIX.sub("", key, count=1)
    settings = [field for field, _ in fields_named(verb, key)] if equals else []
    if any(field.metadata.get("verbatim") for field in settings):
        return text_override(key, escape(value), word)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if quoted or value == "null" or "${" in value or not any(field.metadata.get("path") for field in settings):
        return None
    if multirun and (several := files_override(key, value, word)):
        return several if isinstance(several, Override) else replace(several, word=word)
    is_read = VERBS[verb].describes_training and not key.endswith("_dir")
    if not multirun and (
        is_sweep_of_files(value) or (is_read and isinstance(files_override(key, value, word), Override))
    ):
        message, cause = f"{key} is given several values", f'command line, "{word}"'
        fix = (
            "one run takes one path; -m tries each; several files of one text are a folder or a pattern, 'texts/*.txt'"
        )
        return Problem("CONFIG-WORD", message, cause, fix, word)
    return text_override(key, escape(value), word)


def _is_text(verb: str, key: str, free: bool) -> bool:
    """Whether a setting is a text. `free`: a text that may hold a comma, so no duration and none of fixed choices."""
    texts = [field.metadata for field, hint in fields_named(verb, key) if without_none(hint) is str]
    return any(not (free and (limits.get("duration") or limits.get("choices"))) for limits in texts)


def _unreadable(verb: str, word: str, reason: str) -> Problem:
    key, equals, value = word.partition("=")
    if not equals:
        fix = "settings are given as key=value"
        if verb == "generate" and not Path(word).expanduser().exists():
            fix = f"did you mean prompt={shlex.quote(word)} ?"
        elif not VERBS[verb].describes_training and "/" in word:
            fix = f"did you mean checkpoint={word} ?"
        elif "." not in word and (near := nearest(word, VERBS)):
            fix = f"{did_you_mean(near)} The verb comes first"
        message = f"{word!r} is neither a verb nor key=value"
        return Problem("CONFIG-WORD", message, f'command line, "{word}"', fix, word)
    if value.count("'") % 2 or value.count('"') % 2:
        reason = "a quote is not closed"
        fix = f"close it; inside a shell: '{key}=\"…\"'"
    else:
        reason = "the value can't be read"
        fix = f"quote it if it is text: '{key}=\"{value}\"'; lists are [a,b]"
        if (items := value.removeprefix("[").removesuffix("]")) and value == f"[{items}]":
            quoted = ",".join('"' + item.strip() + '"' for item in items.split(","))
            fix = f"quote what is text in the list: '{key}=[{quoted}]'"
    return Problem("CONFIG-WORD", f"{key}: {reason}", f'command line, "{word}"', fix, word)


def _unusable(override: Override, word: str, multirun: bool) -> Problem | None:
    """The problem of an override that can be parsed but asks for something that bigtrain does not do."""
    key, cause = override.key_or_group, f'command line, "{word}"'
    if not all(key.split(".")):
        return Problem("CONFIG-WORD", f"{word!r} names no setting", cause, "settings are given as key=value")
    if is_hydra(override):
        return _hydra_problem(override, cause, multirun)
    if override.package is not None:
        message = f"{key}@{override.package} would put a choice elsewhere, which bigtrain does not do"
        return Problem("CONFIG-WORD", message, cause, f"write {key}=…")
    if is_sweep_setting(override) and not multirun:
        return Problem("CONFIG-SWEEP", f"{key}= says how several runs are chosen", cause, "add -m, or leave it out")
    if override.is_interval_sweep() and not multirun:
        fix = "give a number; -m sweep=optuna draws one from an interval"
        return Problem("CONFIG-WORD", f"{key} is given an interval", cause, fix)
    if override.is_sweep_override() and not multirun:
        value = word.partition("=")[2]
        fix = f"one run takes one value; a list is {key}=[{value}], a text is '{key}=\"{value}\"'; -m tries each"
        rounds = rounds_for_value(key, value, None)
        return Guess("CONFIG-WORD", f"{key} is given several values", cause, rounds=rounds, otherwise=fix)
    return None


def _hydra_problem(override: Override, cause: str, multirun: bool) -> Problem | None:
    """Of Hydra's own settings only the search path and, with -m, the launcher are taken; others could run code."""
    key, value = override.key_or_group, override.value()
    if multirun and is_launcher(override) and not override.is_sweep_override():
        return None  # sweep/launcher.py looks at it
    if key != "hydra.searchpath":
        near = did_you_mean(nearest(key, ["hydra.searchpath", "hydra/launcher"]))
        message = f"{key} can't be set: bigtrain sets Hydra up itself"
        if is_launcher(override):
            message = f"{key} can't be {'swept' if multirun else 'set'}: it says how the runs of one -m are started"
            near = "give it one value" if multirun else "add -m, or leave it out"
        allowed = "allowed are hydra.searchpath=[dir] and, with -m, hydra/launcher= and hydra.launcher.*"
        return Problem("CONFIG-HYDRA", message, cause, near or allowed)
    if not isinstance(value, list) or not all(isinstance(place, str) for place in value):
        return Problem("CONFIG-HYDRA", f"{key} is a list of folders", cause, "write hydra.searchpath=[dir]")
    for place in value:
        scheme, _, rest = place.rpartition("://")
        if scheme not in ("", "file", "pkg") or (scheme != "pkg" and not Path(rest).is_dir()):
            return Problem("CONFIG-HYDRA", f"{key}: {place} is not a folder", cause, "name a folder that exists")
    return None
