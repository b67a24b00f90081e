"""Putting values into a typed tree, one at a time, refusing everything that is not a setting.

Hydra and OmegaConf accept a misspelt key after `+`, and refuse other things in overrides that recommend just
that. So every value reaches a tree through `StrictTree.assign`: those of the command line, of every YAML file and of a
saved config, and the settings of a launcher, a search and a pipeline, which declare nothing but a dataclass. Whatever
is wrong is collected, with where it came from, and shown together.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bigtrain.config.hints import (
    Guess,
    Words,
    elsewhere,
    known_keys,
    otherwise,
    ours_for,
    rounds_for,
    rounds_for_value,
    settled,
)
from bigtrain.config.hydra_adapter import Override
from bigtrain.config.redact import redact_overrides
from bigtrain.config.schema import describe_type, field_types, is_group, named_group, node_type, without_none
from bigtrain.config.yaml_files import foreign_resolver, line_of
from bigtrain.errors import Problem

Keys = tuple[str, ...]
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
Rounds = tuple[tuple[Words, ...], ...]
MAX_PROBLEMS = 30  # shown together


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a value came from: an override of the command line, or a file."""

    word: str = ""
    file: str = ""

    def describe(self, keys: Keys) -> str:
        """For the `cause:` line of a problem."""
        if self.word:
            return f'command line, "{redact_overrides([self.word])[0]}"'
        path = Path(self.file)
        line = line_of(path, keys) if path.suffix == ".yaml" and path.is_file() else None
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{shown}, line {line}" if line else str(shown)


class StrictTree:
    """A typed OmegaConf tree that takes values strictly, and remembers where each came from.

    `whose`: "the launcher", for "hydra.launcher.x is not a setting of the launcher". `besides`: overrides that a wrong
    key may have meant, beside the settings.
    """

    def __init__(self, whose: str, besides: Iterable[str] = ()):
        self.config = OmegaConf.create()
        self.problems: list[Problem] = []
        self.origins: dict[str, Origin] = {}
        self._whose = whose
        self._besides = tuple(besides)

    @classmethod
    def of(cls, path: str, config_class: type, whose: str) -> StrictTree:
        """A tree that holds nothing but the settings of one class, at a dotted path."""
        for name in reversed(path.split(".")):
            field = (name, config_class, dataclasses.field(default_factory=config_class))
            config_class = dataclasses.make_dataclass(name, [field])
        tree = StrictTree(whose)
        tree.add_schema(OmegaConf.structured(config_class))
        return tree

    def add_schema(self, node: DictConfig) -> None:
        """Merges typed nodes: which settings exist from now on."""
        self.config.merge_with(node)

    def assign(self, content: Mapping[str, Any], origin: Origin) -> None:
        """Merges plain content, key by key. What can't be taken becomes a problem and is left out."""
        self._assign(self.config, (), content, origin)

    @property
    def typed(self) -> frozenset[str]:
        """Keys whose value stands on the command line."""
        return frozenset(key for key, origin in self.origins.items() if origin.word)

    def cause_of(self, key: str) -> str:
        """Where the value of a setting came from, for the `cause:` line; an empty text for a default."""
        origin = self.origins.get(key)
        return origin.describe(tuple(key.split("."))) if origin else ""

    def raw(self) -> dict[str, Any]:
        """The plain values as they were given: references unresolved, enums by name."""
        return OmegaConf.to_container(self.config, resolve=False, enum_to_str=True)  # type: ignore[return-value]

    def apply(self, override: Override) -> None:
        """One `key=value` or `~key` of the command line."""
        origin = Origin(word=str(override.input_line))
        if override.is_delete():
            self._remove(override.key_or_group, origin)
            return
        content: Any = override.value()
        for key in reversed(override.key_or_group.split(".")):
            content = {key: content}
        self.assign(content, origin)

    def _remove(self, key: str, origin: Origin) -> None:
        """`~extra.note`: only what stands under `extra` can be removed."""
        keys = tuple(key.split("."))
        parent = OmegaConf.select(self.config, ".".join(keys[:-1])) if len(keys) > 1 else None
        if keys[0] == "extra" and isinstance(parent, DictConfig) and keys[-1] in parent:
            with open_dict(parent):
                del parent[keys[-1]]
        elif key in set(known_keys(self.config)):
            self._report("CONFIG-KEY", f"{key} is a setting, which can't be removed", keys, origin, f"{key}=null")
        else:
            self._unknown(keys, None, origin)

    def _assign(self, node: DictConfig, above: Keys, content: Mapping[str, Any], origin: Origin) -> None:
        types = field_types(node_type(node))
        for key, value in content.items():
            keys = (*above, str(key))
            if key not in types:
                self._unknown(keys, value, origin)
            elif is_group(types[key]):
                self._assign_group(node, keys, value, origin)
            elif group := named_group(types[key]):
                self._assign_named(node, keys, group, value, origin)
            elif typing.get_args(types[key]) == (str, Any):
                if isinstance(value, Mapping):
                    self._assign_free(node[key], keys, value, origin)
                else:
                    self._wrong_type(keys, value, types[key], origin)
            else:
                self._assign_value(node, keys, types[key], value, origin)

    def _assign_group(self, node: DictConfig, keys: Keys, value: Any, origin: Origin) -> None:
        name = ".".join(keys)
        if not isinstance(value, Mapping):
            self._wrong_type(keys, value, dict, origin)
        elif OmegaConf.is_missing(node, keys[-1]):
            fix = f"choose one: {name}=…; a file of the group begins with defaults: [/schema/{name}@_here_: …]"
            self._report("CONFIG-KEY", f"{name} has no settings before a choice was made", keys, origin, fix)
        else:
            self._assign(node[keys[-1]], keys, value, origin)

    def _assign_named(self, node: DictConfig, above: Keys, group: type, value: Any, origin: Origin) -> None:
        """Groups by name: a file says which there are; an override only changes them, if the setting is not one that
        it may extend.
        """
        if not isinstance(value, Mapping):
            self._wrong_type(above, value, dict, origin)
            return
        for name, content in value.items():
            keys, groups = (*above, str(name)), node[above[-1]]
            if origin.word and str(name) not in groups and not self._limits(node, above).get("extensible"):
                self._unknown(keys, content, origin)
            else:
                groups.setdefault(str(name), OmegaConf.structured(group))
                self._assign_group(groups, keys, content, origin)

    def _assign_free(self, node: DictConfig, above: Keys, content: Mapping[str, Any], origin: Origin) -> None:
        """Under `extra` anything goes, as long as JSON can hold it and it only points."""
        for key, value in content.items():
            keys = (*above, str(key))
            if not isinstance(key, str):
                self._report("CONFIG-KEY", f"{'.'.join(keys)}: the key {key!r} is not text", keys, origin, "quote it")
                continue
            with open_dict(node):
                if isinstance(value, Mapping):
                    if not isinstance(node._get_node(key), DictConfig):  # a reference is not followed
                        node[key] = {}
                    self._assign_free(node[key], keys, value, origin)
                elif not self._evaluates(keys, value, origin):
                    self._set(node, keys, Any, value, origin)

    def _assign_value(self, node: DictConfig, keys: Keys, hint: Any, value: Any, origin: Origin) -> None:
        if self._evaluates(keys, value, origin):
            return
        if without_none(hint) is str and isinstance(value, bool):
            value = str(value).lower()  # trainer.compile=true is the choice "true"
        limits = self._limits(node, keys)
        if isinstance(value, (str, int, float)) and limits.get("one_or_more"):
            value = [value]
        if hint == list[str] and isinstance(value, (list, ListConfig)):
            value = [str(one).lower() if isinstance(one, bool) else one for one in value]  # data.labels=[false,true]
        if without_none(hint) is float and isinstance(value, str) and (percent := _PERCENT.fullmatch(value)):
            value = float(f"{percent[1]}e-2")  # scheduler.decay_fraction=20%
        if isinstance(value, Mapping) != (typing.get_origin(hint) is dict):
            self._wrong_type(keys, value, hint, origin)
        else:
            self._set(node, keys, hint, value, origin)

    def _limits(self, node: DictConfig, keys: Keys) -> Mapping[str, Any]:
        return {field.name: field.metadata for field in dataclasses.fields(node_type(node))}[keys[-1]]

    def _set(self, node: DictConfig, keys: Keys, hint: Any, value: Any, origin: Origin) -> None:
        try:
            node[keys[-1]] = value
            self.origins[".".join(keys)] = origin
        except (OmegaConfBaseException, TypeError):
            self._wrong_type(keys, value, hint, origin)

    def _evaluates(self, keys: Keys, value: Any, origin: Origin) -> bool:
        resolver = foreign_resolver(str(value)) if "${" in str(value) else ""
        if resolver:
            fix = "allowed: ${other.key}, ${oc.env:NAME}, ${hydra:runtime.choices.model}"
            message = f"{'.'.join(keys)} uses the resolver ${{{resolver}:…}}, which is not allowed"
            self._report("CONFIG-VALUE", message, keys, origin, fix)
        return bool(resolver)

    def _unknown(self, keys: Keys, value: Any, origin: Origin) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            return
        typed_keys = origin.word.partition("=")[0].split(".")
        while origin.word and len(keys) < len(typed_keys) and isinstance(value, Mapping):
            name, value = next(iter(value.items()))
            keys = (*keys, str(name))
        key = ".".join(keys)
        known = list(dict.fromkeys([*known_keys(self.config), *self._besides]))
        typed = None
        if "=" in origin.word:
            typed = origin.word.partition("=")[2] if len(keys) == len(typed_keys) else show(value)
        rounds, other, fix = self._meant(key, known, rounds_for(key, known, typed), origin)
        if not fix and not other:
            siblings = [name for name in known if name.rpartition(".")[0] == ".".join(keys[:-1])]
            fix = f"the settings there are {', '.join(siblings)}" if siblings else "bigtrain --help lists all settings"
        message = f"{key} is not a setting of {self._whose}"
        self._report("CONFIG-KEY", message, keys, origin, fix, rounds=rounds, before=other)

    def _meant(self, key: str, known: list[str], rounds: Rounds, origin: Origin) -> tuple[Rounds, str, str]:
        """For an unknown key: (rounds of guesses, what is said in any case, what is said where no guess fits)."""
        return rounds, "", ""

    def _wrong_type(self, keys: Keys, value: Any, hint: Any, origin: Origin) -> None:
        key = ".".join(keys)
        text = value if isinstance(value, str) else show(value)
        rounds: Rounds = ()
        fix = ""
        if isinstance(value, Mapping) and typing.get_origin(hint) is not dict:
            message = f"{key} is one setting, not a group of them"
        else:
            message = f"{key} is {show(value)}"
            rounds = rounds_for_value(key, text, hint)
        allowed = f"it must be {'a group of settings' if hint is dict else describe_type(hint)}"
        if hint is dict:
            settings = [name for name in known_keys(self.config) if name.startswith(f"{key}.")]
            fix = otherwise(key, (), self.config)
            rounds = () if fix else rounds_for(text, settings)
            allowed += f": {', '.join(f'{name}=…' for name in settings)}" if settings else ""
        self._report("CONFIG-TYPE", message, keys, origin, fix, rounds=rounds, before=allowed)

    def _report(
        self, code: str, message: str, keys: Keys, origin: Origin, fix: str, rounds: Rounds = (), before: str = ""
    ) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            cause = origin.describe(keys)
            key = ".".join(keys)
            guess = Guess(code, message, cause, word=origin.word, key=key, rounds=rounds, before=before, otherwise=fix)
            # What stands in a file can't be tried as an override: names are alike enough to be shown untried.
            self.problems.append(
                self._settled(guess) if origin.word else settled(guess, lambda words: "=" not in words[0])
            )
        if len(self.problems) == MAX_PROBLEMS - 1:
            self.problems.append(Problem("CONFIG-MORE", "there may be more; mend these first"))

    def _settled(self, guess: Guess) -> Problem:
        return settled(guess, self._takes)

    def _takes(self, words: Words) -> bool:
        """Whether the tree would take these overrides; those with a list are not tried."""
        config = copy.deepcopy(self.config)
        try:
            for word in words:
                key, _, value = word.partition("=")
                OmegaConf.update(config, key, value)
        except (OmegaConfBaseException, AttributeError):
            return False
        return not any("=[" in word for word in words)


class SettingsTree(StrictTree):
    """The settings of a verb, composed of overrides and files. It knows what a wrong key means in other choices, for
    other verbs and in other projects; its guesses are settled when all overrides are read (`compose.settle`).
    """

    def __init__(self, verb: str, choices: Callable[[str], Mapping[str, str]], groups: Iterable[str] = ()):
        """`choices(kind)` gives choice → registered part of a group; `groups` are the groups of this verb."""
        super().__init__(f"bigtrain {verb}", besides=(*groups, "plugins"))
        self._verb, self._choices = verb, choices

    def _meant(self, key: str, known: list[str], rounds: Rounds, origin: Origin) -> tuple[Rounds, str, str]:
        here = any(name.endswith(f".{key}") for name in known)
        names = [] if here else [key] if rounds else [key, *ours_for(key)]
        other = next(filter(None, (elsewhere(name, self._verb, self.config, self._choices) for name in names)), "")
        if key.partition(".")[0] == "experiment" and origin.file:
            return (), other, "let the file begin with the line: # @package _global_"
        if key == "plugins":
            return (), other, "plug-ins are named on the command line: plugins=[my_package]"
        if key.startswith("hydra"):
            return (), other, "remove it: Hydra itself is set up by bigtrain"
        return rounds, other, otherwise(key, rounds, self.config)

    def _settled(self, guess: Guess) -> Problem:
        return guess


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, ListConfig)):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {show(item)}' for key, item in value.items())}}}"
    return repr(value) if isinstance(value, str) else str(value)
