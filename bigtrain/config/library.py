"""The YAML files and groups that a request can choose from: ours, and those of the user's folders.

Also what is wrong with a choice, in sentences. Putting the chosen files together is compose.py's business.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult

from bigtrain.config.habits import CHOICES, plain
from bigtrain.config.hints import Guess, Words, did_you_mean, of_file
from bigtrain.config.known_data import ANY_FILES, OWN_FILES, PARTNERS
from bigtrain.config.plugins import loaded_plugins
from bigtrain.config.schema import register_schemas, root_name
from bigtrain.config.words import is_hydra
from bigtrain.config.yaml_files import MAX_BYTES, CheckedFolder
from bigtrain.errors import ConfigError, Problem, nearest
from bigtrain.registry import DATA, REGISTRIES

OPTIONAL_GROUPS = ("experiment", "local", "debug")


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for: a verb, the words after it, and where to look for YAML."""

    verb: str
    words: tuple[str, ...] = ()
    config_name: str | None = None
    config_dir: str | None = None
    plugins: tuple[str, ...] = ()  # the names that plugins= gave; they are loaded already
    paths: tuple[str, ...] = ()  # words that name places, of a verb that takes some
    from_file: frozenset[str] = frozenset()  # those words that a pipeline's file gave, and nobody typed

    @property
    def plugin_words(self) -> tuple[str, ...]:
        """The word that names the plug-ins, where there is one."""
        return (f"plugins=[{','.join(self.plugins)}]",) if self.plugins else ()

    @property
    def flags(self) -> tuple[str, ...]:
        """What another `bigtrain` needs, before its words, to see the same settings: folders and plug-ins."""
        given = {"-cn": self.config_name, "-cd": self.config_dir}
        flags = (part for flag, value in given.items() if value is not None for part in (flag, value))
        return (*flags, *self.plugin_words)

    @property
    def root(self) -> str:
        """Name of the root YAML."""
        return self.config_name or root_name(self.verb)


class Library:
    """The YAML files that a request can choose from: ours, and those of the user's folders."""

    def __init__(self, request: Request, overrides: list[Override]):
        self.root = request.root
        self.loader = ConfigLoaderImpl(search_path(request))
        words = [override.input_line or "" for override in overrides if is_hydra(override)]
        _, self.repository = self.loader._parse_overrides_and_create_caching_repo(self.root, words)
        self._choices: dict[str, list[str]] = {}
        self.groups = list(dict.fromkeys(self._listed_groups(self.root)))

    def choices(self, group: str) -> list[str]:
        """All choices of a group, nested ones as `folder/name`."""
        if group not in self._choices:
            self._choices[group] = self._read_choices(group)
        return self._choices[group]

    def _read_choices(self, group: str) -> list[str]:
        if not self.repository.group_exists(group):
            return []
        found = self.repository.get_group_options(group, ObjectType.CONFIG)
        for folder in self.repository.get_group_options(group, ObjectType.GROUP):
            found += [f"{folder}/{choice}" for choice in self.choices(f"{group}/{folder}")]
        return sorted(found)

    def parts(self, kind: str) -> dict[str, str]:
        """Choice → the registered part whose settings it holds, for a group with a registry."""
        found = {}
        for choice in self.choices(kind):
            for default in self._defaults_of(f"{kind}/{choice}"):
                if isinstance(default, GroupDefault) and default.group == f"/schema/{kind}":
                    found[choice] = str(default.value)
        return found

    def has_group(self, name: str) -> bool:
        """Whether `name` is a group of YAML files (not of schemas, nor Hydra's)."""
        return name.split("/")[0] not in ("schema", "hydra", "") and self.repository.group_exists(name)

    def comment(self, group: str, choice: str) -> str:
        """What the comment at the head of a choice's file says, in one line."""
        for source in self.repository.get_sources():
            if source.scheme() in ("pkg", "file") and source.is_config(f"{group}/{choice}"):
                files: Any = files_of(source.path) if source.scheme() == "pkg" else Path(source.path)
                text = (files / group / f"{choice}.yaml").read_text(encoding="utf-8", errors="replace")
                lines = itertools.takewhile(lambda line: line.startswith("#"), text[:MAX_BYTES].splitlines())
                return " ".join(line.strip("# ") for line in lines if not line.startswith("# @package"))
        return ""

    def file_that_names(self, group: str, choice: str) -> str:
        """The file, of those read so far, whose defaults list chose this; Hydra names only the root."""
        for result_key, loaded in self.repository.cache.items():
            for default in (loaded and loaded.defaults_list) or []:
                if not isinstance(default, GroupDefault):
                    continue
                if (str(default.group).lstrip("/"), default.value) == (group, choice):
                    return str(result_key.partition("=")[2])
        return self.root

    def _defaults_of(self, config_path: str) -> list[Any]:
        loaded = self.repository.load_config(config_path)
        return list(loaded.defaults_list or []) if loaded else []

    def _listed_groups(self, config_path: str) -> Iterator[str]:
        for default in self._defaults_of(config_path):
            if isinstance(default, GroupDefault) and default.group:
                yield default.group
            elif isinstance(default, ConfigDefault):
                path = str(default.path).lstrip("/")
                if path != "_self_" and not path.startswith("schema/"):
                    yield from self._listed_groups(path)


def search_path(request: Request) -> ConfigSearchPath:
    """Ours first, then those of plug-ins, the user's `-cd` folder, the schemas.

    Raises ConfigError for a missing folder.
    """
    version.setbase("1.3")
    register_schemas()
    path = create_config_search_path("pkg://bigtrain.configs")
    CheckedFolder.install()
    schemas = SearchPathQuery(provider="schema")
    for plugin in loaded_plugins():
        if plugin.configs is not None:
            path.prepend(f"plug-in {plugin.name}", f"file://{plugin.configs}", anchor=schemas)
    if request.config_dir is not None:
        folder = Path(request.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError.of("CONFIG-FILE", f"-cd {request.config_dir}: there is no such folder")
        path.prepend("command-line", f"file://{folder}", anchor=schemas)
    return path


def choice_problem(override: Override, library: Library, verb: str) -> Problem | None:
    """What is wrong with a word that chooses from a group, if anything is."""
    group, value, word = override.key_or_group, override.value(), str(override.input_line)
    cause = f'command line, "{word}"'
    if group not in library.groups and not override.is_add():
        if group in REGISTRIES:
            fix = "it comes with the checkpoint; give checkpoint=<run directory>"
            if group == "data":
                fix += ", and other data of the same kind as data.path="
        else:
            fix = did_you_mean([f"{name}={value}" for name in nearest(group, library.groups)]) or f"write +{group}="
        return Problem("CONFIG-KEY", f"bigtrain {verb} has no choice of {group}", cause, fix, word)
    if override.is_delete():
        if group in OPTIONAL_GROUPS or group not in library.groups:
            return None
        return Problem("CONFIG-CHOICE", f"{group} can't be left out", cause, choice_fix(group, "", library), word)
    wanted = value if isinstance(value, list) and group == "experiment" else [value]
    if value is None and group in OPTIONAL_GROUPS:
        return None
    options = library.choices(group)
    for choice in wanted:
        if str(choice) not in options:
            name = "null" if choice is None else str(choice)
            return Guess(
                "CONFIG-CHOICE",
                f"{group}={name} is not a choice",
                cause,
                word=word,
                rounds=_choice_rounds(group, name, library),
                otherwise=_own_files(name, library) if group == "data" else "",
                after=_listed(group, options),
            )
    return None


def _choice_rounds(group: str, choice: str, library: Library) -> tuple[tuple[Words, ...], ...]:
    """What may have been meant: the same name written otherwise, what others call so, a file, a slip."""
    options = library.choices(group)
    same = [name for name in options if plain(name) == plain(choice)]
    same = same or [name for name in options if plain(name.split("/")[-1]) == plain(choice.split("/")[-1])]
    rounds: list[list[Words]] = [[(f"{group}={name}",) for name in same]]
    if other := CHOICES.get(group, {}).get(plain(choice)):
        rounds.append([tuple(other.split(" "))])
    rounds.append([] if same else [(f"{group}={name}",) for name in nearest(choice, options)])
    if group == "data":
        rounds = [both for each in rounds for both in (each, _with_partners(each, library))]
        rounds.insert(0, of_file(choice)[:1])
        rounds.insert(1, of_file(choice)[1:])
    return tuple(tuple(each) for each in rounds if each)


def _with_partners(each: list[Words], library: Library) -> list[Words]:
    """Choices of data, each with a word for what it goes with."""
    parts = library.parts("data") if each else {}
    found = []
    for words in each:
        part = parts.get(words[0].partition("=")[2], "")
        provides = getattr(DATA[part].config_class, "provides", "") if part in DATA else ""
        if provides in PARTNERS:
            found.append((*words, PARTNERS[provides]))
    return found


def _own_files(name: str, library: Library) -> str:
    """How to train on data that has to be brought: what is known by this name, or any."""
    same = [choice for choice in library.choices("data") if plain(choice) == plain(name)]
    if same:
        (partner,) = [words[1:] for words in _with_partners([(f"data={same[0]}",)], library)] or [()]
        return f"here it is called {' '.join((f'data={same[0]}', 'data.path=…', *partner))}"
    known = OWN_FILES.get(plain(name))
    return f"{name} does not come with bigtrain; from a file of your own: {known}" if known else ANY_FILES


def _listed(group: str, options: list[str]) -> str:
    return f"choices: {', '.join(options)}" if options else f"there is no {group} to choose yet"


def choice_fix(group: str, choice: str, library: Library) -> str:
    """The nearest choices of a group, and all of them."""
    options = library.choices(group)
    same = [name for name in options if plain(name.split("/")[-1]) == plain(choice.split("/")[-1])]
    near = did_you_mean([f"{group}={name}" for name in same or nearest(choice, options)])
    return f"{near} ({_listed(group, options)})" if near else _listed(group, options)


def file_problem(reason: str, library: Library) -> Problem:
    """Hydra's complaint about a defaults list, in our words."""
    file = re.search(r"In '([^']+)'", reason)
    cause = f"{file[1]}.yaml, its defaults list" if file else "a defaults list"
    if missing := re.search(r"Could not (?:find|load) '([^']+)'", reason):
        group, _, choice = missing[1].rpartition("/")
        cause = f"{library.file_that_names(group, choice)}.yaml, its defaults list"
        return Problem("CONFIG-CHOICE", f"{missing[1]} does not exist", cause, choice_fix(group, choice, library))
    if unlisted := re.search(r"Could not override '([^']+)'", reason):
        near = did_you_mean(nearest(unlisted[1], library.groups))
        fix = near or "the groups are " + ", ".join(library.groups)
        return Problem("CONFIG-KEY", f"{unlisted[1]} is not a group of this command", cause, fix)
    if primary := re.search(r"Cannot find primary config '([^']+)'", reason):
        return Problem(
            "CONFIG-FILE", f"-cn {primary[1]}: there is no {primary[1]}.yaml", fix="give its folder: -cd DIR"
        )
    return Problem(
        "CONFIG-FILE",
        "a defaults list can't be used",
        reason.strip().splitlines()[0],
        "see the file it names",
    )


def file_of(loaded: ConfigResult, config_path: str) -> str:
    """Where a loaded YAML lies, for people."""
    scheme, _, place = loaded.path.partition("://")
    folder = "configs" if scheme == "pkg" and place == "bigtrain.configs" else place
    return f"{folder}/{config_path}.yaml"


def refuse_shadowed(repository: IConfigRepository, config_path: str, loaded: ConfigResult) -> None:
    """A file that has the name of one of ours, or of a plug-in's, would be ignored, so it is an error."""
    first = loaded.path.partition("://")[2]
    for source in repository.get_sources():
        if source.scheme() == "file" and source.path != first and source.is_config(config_path):
            own = Path(source.path) / f"{config_path}.yaml"
            owner = "bigtrain" if loaded.provider == "main" else loaded.provider
            message = f"{own} has the name of a config that ships with {owner}, and would be ignored"
            raise ConfigError.of("CONFIG-FILE", message, fix="rename it, and choose it by its new name")
