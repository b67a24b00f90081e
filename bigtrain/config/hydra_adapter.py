"""The only module that knows Hydra: its grammar of overrides, the order of its defaults lists, its flags and displays.

Of Hydra we use what it documents: the parser of overrides; a `ConfigSource`, through which it asks us for each config,
and a `SearchPathPlugin`, both registered with `Plugins`; the config loader of `GlobalHydra`, which computes the order
of the files; `ConfigStore`, for its own displays. Hydra never merges the values of a run (its merge accepts misspelt
keys), never runs a task, and leaves nothing behind in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra import initialize_config_module

# Undocumented, as Hydra has no other way to its command line: the argparse parser of --cfg, --info, -m and the like.
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    ValueType,
)
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf

from bigtrain.config.sources import OWN, Folder, Sources

__all__ = ["Glob", "HydraException", "IntervalSweep", "Override"]

CONFIGS = "bigtrain.configs"
"""The package of our YAML files."""

_HYDRA_ROOT = "hydra/config"


def parse_override(word: str) -> Override:
    """`key=value`, `+key=value` or `~key`, read by Hydra's grammar. Raises HydraException, or ValueError."""
    return OverridesParser.create().parse_override(word)


def text_override(key: str, text: str, word: str) -> Override:
    """`key=text`, the text as it stands; `word` is what was typed."""
    return Override(OverrideType.CHANGE, key, ValueType.ELEMENT, _single_quoted(text), input_line=word)


def texts_override(key: str, texts: Iterable[str], word: str) -> Override:
    """A sweep over texts as they stand: `key=choice('a','b')`."""
    listed: list[Any] = [_single_quoted(text) for text in texts]
    return Override(OverrideType.CHANGE, key, ValueType.CHOICE_SWEEP, ChoiceSweep(list=listed), input_line=word)


def names_override(override: Override, names: list[str]) -> Override:
    """A glob over the choices of a group, with the choices that it stands for in its place."""
    return dataclasses.replace(override, config_loader=None, _value=names)


def is_comma_list(override: Override) -> bool:
    """Whether the value is `a,b`: several values only because of its commas, not a `choice(a,b)`."""
    return override.value_type is ValueType.SIMPLE_CHOICE_SWEEP


def quoted_text(override: Override) -> str | None:
    """The value as Hydra would write it in quotes; None where it is no quoted text."""
    value = override._value if override.value_type is ValueType.ELEMENT else None
    return value.with_quotes() if isinstance(value, QuotedString) else None


def quote(text: str) -> str:
    """A text in single quotes, so that Hydra's grammar reads back exactly this text."""
    return _single_quoted(text).with_quotes()


def swept_texts(override: Override) -> list[str]:
    """The texts of `choice(a,'b')` without quotes; [] for another kind of value, or where an element is no text."""
    swept = override.value()
    elements = swept.list if isinstance(swept, ChoiceSweep) else []
    texts = [item.text if isinstance(item, QuotedString) else item for item in elements]
    return [text for text in texts if isinstance(text, str)] if all(isinstance(text, str) for text in texts) else []


def _single_quoted(text: str) -> QuotedString:
    return QuotedString(text=text, quote=Quote.single)


class Entry(NamedTuple):
    """A config in the order in which they are put together: its path, where its values go, the config that names it."""

    path: str
    package: str | None
    parent: str | None


def files_in_order(sources: Sources, root: str, words: list[str]) -> tuple[list[Entry], dict[str, Any]]:
    """The configs that the defaults list of `root` comes to, with the choices of `words`; and every group's choice.

    Raises HydraException for a defaults list that can't be used, ConfigError for a file that breaks a rule.
    """
    _Outlines.sources = sources
    with _initialized(((OWN, "bigtrain://"),), alone=True):
        found: Any = GlobalHydra.instance().config_loader().compute_defaults_list(root, words, RunMode.RUN)
    first, *entries = (Entry(str(item.config_path), item.package, item.parent) for item in found.defaults)
    assert first.path == _HYDRA_ROOT
    return entries, found.overrides.known_choices


class _Outlines(ConfigSource):
    """What Hydra needs of a config to compute the order: its defaults list, its package, and whether it has values."""

    sources: ClassVar[Sources]

    @staticmethod
    def scheme() -> str:
        return "bigtrain"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return self.sources.has_group(config_path.rstrip("/"))

    def is_config(self, config_path: str) -> bool:
        # Hydra puts its own root before ours: it finds an empty one, which costs nothing to read.
        return config_path == _HYDRA_ROOT or self.sources.has_config(config_path.rstrip("/"))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        groups = [] if results_filter is ObjectType.CONFIG else self.sources.groups(config_path)
        configs = [] if results_filter is ObjectType.GROUP else self.sources.configs(config_path)
        return sorted({*groups, *configs})

    def load_config(self, config_path: str) -> ConfigResult:
        content: dict[str, Any] = {}
        header: dict[str, str | None] = {"package": None}
        if config_path != _HYDRA_ROOT:
            file = self.sources.load(config_path)
            header["package"] = file.package
            content = {"defaults": file.defaults} if file.defaults else {}
            if OmegaConf.is_list(file.values) or len(file.values):
                content["values"] = True  # Hydra warns of a root that has values, but no `_self_`
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), header)


class _SearchPath(SearchPathPlugin):
    """Puts (provider, path) pairs on Hydra's search path, after what is there already or alone."""

    pairs: ClassVar[Sequence[tuple[str, str]]] = ()
    alone: ClassVar[bool] = False

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.alone:
            search_path.get_path().clear()
        for provider, path in self.pairs:
            search_path.append(provider, path)


@contextlib.contextmanager
def _initialized(pairs: Sequence[tuple[str, str]], alone: bool = False) -> Iterator[None]:
    """Hydra, set up with these sources; afterwards it is as it was before."""
    for plugin in (_Outlines, _SearchPath):
        Plugins.instance().register(plugin)  # once; again does nothing
    _SearchPath.pairs, _SearchPath.alone = pairs, alone
    GlobalHydra.instance().clear()
    try:
        initialize_config_module(CONFIGS, job_name="bigtrain", version_base="1.3")
        yield
    finally:
        _SearchPath.pairs, _SearchPath.alone = (), False
        GlobalHydra.instance().clear()


def submitit_settings() -> Any:
    """The module of hydra-submitit-launcher with the settings of its launchers. Raises ImportError without it."""
    from hydra_plugins.hydra_submitit_launcher import config

    return config


def flags_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's flags and, as positional arguments, of the overrides."""
    return get_args_parser()


def offer_facts(choices: Mapping[str, str]) -> None:
    """Makes `${hydra:runtime.choices.model}` and its kind resolve, without composing Hydra's own config."""
    from hydra.conf import HydraConf

    setup_globals()
    facts = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    facts.hydra.runtime.choices = dict(choices)
    facts.hydra.runtime.cwd = str(Path.cwd())
    facts.hydra.job.name = "bigtrain"
    HydraConfig.instance().set_config(facts)


def forget_facts() -> None:
    """Takes back `offer_facts`."""
    HydraConfig.instance().cfg = None


def hydra_display(
    flags: argparse.Namespace, root: str, words: list[str], folders: Iterable[Folder], classes: Mapping[str, type]
) -> str:
    """What Hydra itself prints for --hydra-help, --cfg hydra|all and --info; `words` as Hydra takes them."""
    with _display(folders, classes) as (hydra, output):
        if flags.hydra_help:
            flags.overrides = words
            hydra.hydra_help(root, get_args_parser(), flags)
        elif flags.cfg:
            hydra.show_cfg(root, words, flags.cfg, flags.package, flags.resolve)
        else:
            hydra.show_info(flags.info, root, words)
    return output.getvalue()


def hydra_completion_script(action: str, shell: str) -> str:
    """The shell code of `-sc install=SHELL` and `-sc uninstall=SHELL`."""
    with _display((), {}) as (hydra, output):
        hydra.shell_completion("train", [f"{action}={shell}"])
    return output.getvalue()


@contextlib.contextmanager
def _display(folders: Iterable[Folder], classes: Mapping[str, type]) -> Iterator[tuple[Any, io.StringIO]]:
    """Hydra with its usual sources, and what it prints."""
    for path, settings in classes.items():
        group, _, name = path.rpartition("/")
        package = "_global_" if group == "schema" else None
        ConfigStore.instance().store(group=group, name=name, node=settings, package=package)
    pairs = [(folder.provider, f"file://{folder.path}") for folder in folders if folder.provider != OWN]
    with _initialized(pairs), contextlib.redirect_stdout(io.StringIO()) as output:
        yield GlobalHydra.instance().hydra, output
