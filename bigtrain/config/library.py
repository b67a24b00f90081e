"""The YAML files and groups that a request can choose from, and what is wrong with a choice, as problems.

Where the files lie is sources.py; compose.py merges the chosen ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from bigtrain.config.habits import CHOICES, plain
from bigtrain.config.hints import Guess, Words, did_you_mean, of_file
from bigtrain.config.hydra_adapter import CONFIGS, Entry, HydraException, Override, files_in_order, quote
from bigtrain.config.known_data import ANY_FILES, OWN_FILES, PARTNERS
from bigtrain.config.plugins import loaded_plugins
from bigtrain.config.sources import OWN, Folder, Sources
from bigtrain.config.verbs import VERBS
from bigtrain.config.yaml_files import MAX_BYTES
from bigtrain.errors import ConfigError, Problem, nearest
from bigtrain.registry import DATA, REGISTRIES

OPTIONAL_GROUPS = ("experiment", "local", "debug")


@dataclasses.dataclass(frozen=True)
class Request:
    """One command line: the verb, the overrides after it, and where to look for YAML."""

    verb: str
    overrides: tuple[str, ...] = ()
    config_name: str | None = None
    config_dir: str | None = None
    plugins: tuple[str, ...] = ()  # the names that plugins= gave; they are loaded already
    paths: tuple[str, ...] = ()  # the overrides that are paths, of a verb that takes paths
    from_file: frozenset[str] = frozenset()  # the overrides that stand in a pipeline's file, not on the command line

    @property
    def plugin_overrides(self) -> tuple[str, ...]:
        """The word that names the plug-ins, where there is one."""
        return (f"plugins=[{','.join(self.plugins)}]",) if self.plugins else ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags with which another process finds the same configs: folders and plug-ins."""
        given = {"-cn": self.config_name, "-cd": self.config_dir}
        flags = (part for flag, value in given.items() if value is not None for part in (flag, value))
        return (*flags, *self.plugin_overrides)

    @property
    def root(self) -> str:
        """Name of the root YAML."""
        return self.config_name or VERBS[self.verb].root


class Library:
    """The YAML files that a request can choose from: ours, and those of the user's folders."""

    def __init__(self, request: Request, overrides: list[Override]):
        self.root = request.root
        self.sources = Sources(folders_of(request, overrides))
        self._choices: dict[str, list[str]] = {}
        self.groups = list(dict.fromkeys(self._listed_groups(self.root)))

    def choices(self, group: str) -> list[str]:
        """All choices of a group, nested ones as `folder/name`."""
        if group not in self._choices:
            self._choices[group] = self._read_choices(group)
        return self._choices[group]

    def _read_choices(self, group: str) -> list[str]:
        found = self.sources.configs(group)
        for folder in self.sources.groups(group):
            found += [f"{folder}/{choice}" for choice in self.choices(f"{group}/{folder}")]
        return sorted(found)

    def parts(self, kind: str) -> dict[str, str]:
        """Choice → the registered part whose settings it holds, for a group with a registry."""
        found = {}
        for choice in self.choices(kind):
            for group, part in self.sources.load(f"{kind}/{choice}").entries():
                if group == f"/schema/{kind}":
                    found[choice] = str(part)
        return found

    def has_group(self, name: str) -> bool:
        """Whether `name` is a group of YAML files (not of schemas, nor Hydra's)."""
        return name.split("/")[0] not in ("schema", "hydra", "") and self.sources.has_group(name)

    def comment(self, group: str, choice: str) -> str:
        """What the comment at the head of a choice's file says, in one line."""
        folder = self.sources.load(f"{group}/{choice}").folder if self.sources.has_config(f"{group}/{choice}") else None
        if folder is None:
            return ""
        text = (folder.path / group / f"{choice}.yaml").read_text(encoding="utf-8", errors="replace")
        lines = itertools.takewhile(lambda line: line.startswith("#"), text[:MAX_BYTES].splitlines())
        return " ".join(line.strip("# ") for line in lines if not line.startswith("# @package"))

    def in_order(self, chosen: Iterable[Override]) -> tuple[list[Entry], dict[str, object]]:
        """The configs that a command line chooses, in the order of their merge, and the choice of each group.

        Raises ConfigError for a defaults list that can't be used.
        """
        try:
            return files_in_order(self.sources, self.root, [self._as_word(override) for override in chosen])
        except HydraException as error:
            raise ConfigError(file_problem(str(error), self)) from error

    def _as_word(self, override: Override) -> str:
        """An override that chooses from a group, for Hydra: a name in quotes, so that nan and 3 are names too."""
        group, value, typed = override.key_or_group, override.value(), str(override.input_line)
        if override.is_delete() or override.is_force_add():
            return typed
        if value is None:  # experiment=null
            return f"~{group}"
        sign = typed[: len(typed) - len(typed.lstrip("+"))]
        if sign == "+" and group in self.groups:
            sign = ""  # +model=cnn means model=cnn
        if isinstance(value, list):
            return f"{sign}{group}=[{','.join(quote(str(name)) for name in value)}]"
        return f"{sign}{group}={quote(value if isinstance(value, str) else typed.partition('=')[2])}"

    def file_that_names(self, group: str, choice: str) -> str:
        """The config, of those read so far, whose defaults list chose this; Hydra names only the root."""
        for path, file in self.sources.loaded.items():
            if any((name.lstrip("/"), value) == (group, choice) for name, value in file.entries() if name):
                return path
        return self.root

    def _listed_groups(self, path: str) -> Iterator[str]:
        if not self.sources.has_config(path):
            return
        for group, value in self.sources.load(path).entries():
            name = str(value).lstrip("/")
            if group:
                yield group
            elif name != "_self_" and not name.startswith("schema/"):
                yield from self._listed_groups(name)


def folders_of(request: Request, overrides: Iterable[Override] = ()) -> list[Folder]:
    """The folders that are searched: ours, those of plug-ins, of `-cd` and of `hydra.searchpath=`.

    Raises ConfigError for a missing folder.
    """
    folders = [Folder(OWN, Path(str(files_of(CONFIGS))))]
    folders += [Folder(f"plug-in {plugin.name}", plugin.configs) for plugin in loaded_plugins() if plugin.configs]
    if request.config_dir is not None:
        folder = Path(request.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError.of("CONFIG-FILE", f"-cd {request.config_dir}: there is no such folder")
        folders.append(Folder("command-line", folder))
    given: list[Any] = [override.value() for override in overrides if override.key_or_group == "hydra.searchpath"]
    for place in itertools.chain.from_iterable(given):
        provider = "hydra.searchpath in command-line"
        scheme, _, rest = place.rpartition("://")
        if scheme != "pkg":
            folders.append(Folder(provider, Path(rest).absolute()))
            continue
        try:
            folders.append(Folder(provider, Path(str(files_of(rest.replace("/", "."))))))
        except (ImportError, TypeError, ValueError):  # no package of this name
            warnings.warn(f"provider={provider}, path={rest} is not available.", stacklevel=2)
    return folders


def choice_problem(override: Override, library: Library, verb: str) -> Problem | None:
    """What is wrong with an override that chooses from a group, if anything is."""
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
    """Guesses: the same name in another spelling, the name that others use, a file, a name that looks like it."""
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
    """Choices of data, each with an override that chooses a model or task which can read it."""
    parts = library.parts("data") if each else {}
    found = []
    for words in each:
        part = parts.get(words[0].partition("=")[2], "")
        provides = DATA[part].config_class.provides if part in DATA else ""  # type: ignore[attr-defined]
        if provides in PARTNERS:
            found.append((*words, PARTNERS[provides]))
    return found


def _own_files(name: str, library: Library) -> str:
    """The fix for a data set that does not come with bigtrain: how to read a copy of it, or files in general."""
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
    """The problem that a message of Hydra's about a defaults list stands for."""
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
