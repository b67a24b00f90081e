"""Registries: name → (settings dataclass, where its factory lives).

A part is registered from a torch-free `config.py`, with its factory as the text "module:attribute";
only `build.py` resolves that text, so that `--help`, completion and a refused typo never import torch.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


class RegisteredTwice(ValueError):
    """Two parts of one kind want the same name."""


@dataclass(frozen=True)
class Entry:
    """One registered part."""

    name: str
    config_class: type
    factory: str

    def load(self) -> Callable[..., Any]:
        """Imports and returns the factory."""
        module, _, attribute = self.factory.partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


class Registry:
    """All parts of one kind. `kind` is also the config group and the node of RunConfig."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, config_class: type, factory: str) -> None:
        """Adds a part. A second part of the same name is an error in the code that registers it."""
        if name in self._entries:
            raise RegisteredTwice(f"{self.kind}={name} is registered already, by {self._entries[name].factory}")
        self._entries[name] = Entry(name, config_class, factory)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Registered names, sorted."""
        return sorted(self._entries)

    def entry_of(self, config: Any) -> Entry:
        """The entry whose settings class is exactly that of `config`."""
        for entry in self:
            if entry.config_class is type(config):
                return entry
        raise KeyError(f"{type(config).__name__} is not registered as a {self.kind}")


def inheriting(part: Any, base: type, **members: Any) -> Any:
    """`part`, an instance of `base`. One of a plug-in whose class does not inherit `base` does so from here on, with a
    warning; `members` then replace those of its class. Until 0.3.
    """
    if not isinstance(part, base):
        known = type(part)
        warnings.warn(
            f"{known.__name__} does not inherit {base.__module__}.{base.__name__}, as the next release will require",
            stacklevel=2,
        )
        part.__class__ = type(known.__name__, (known, base), {"__module__": known.__module__, **members})
    return part


MODELS = Registry("model")
DATA = Registry("data")
TASKS = Registry("task")
OPTIMIZERS = Registry("optimizer")
SCHEDULERS = Registry("scheduler")

WEIGHT_FORMATS: dict[str, str] = {}
"""Folders that `init_from` may name beside bigtrain's own checkpoints: name → the module that reads their settings.

It has `recognises(where) -> bool` and `adopt(tree, config, choice, parts)`, as `bigtrain.interop.pretrained` does.
"""

REGISTRIES = {registry.kind: registry for registry in (MODELS, DATA, TASKS, OPTIMIZERS, SCHEDULERS)}
