"""Overrides → a typed tree of settings → the validated config of a command. No torch; nothing is written.

Hydra parses the overrides and computes the order of the files (hydra_adapter.py). Their values are merged here,
strictly (strict.py), because Hydra's merge accepts misspelt keys.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigtrain.config.checks import find_conflicts
from bigtrain.config.contradictions import find_contradictions, in_its_unit, refused
from bigtrain.config.hints import Guess, Words, field_of, rounds_for_value, settled
from bigtrain.config.hydra_adapter import Entry, HydraException, Override, offer_facts
from bigtrain.config.library import Library, Request, choice_fix, choice_problem
from bigtrain.config.overrides import is_hydra, parse_overrides
from bigtrain.config.redact import redact_overrides
from bigtrain.config.resume import AUTO, ResumeInfo, extension_without_run, resumed_tree
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import to_config, to_document
from bigtrain.config.schema import node_type
from bigtrain.config.settings import find_problems
from bigtrain.config.strict import Origin, SettingsTree
from bigtrain.config.verbs import VERBS
from bigtrain.errors import BigtrainError, ConfigError, Problem
from bigtrain.registry import WEIGHT_FORMATS

FindRun = Callable[[str, Path], Path | None]


@dataclasses.dataclass(frozen=True)
class Composed:
    """What a command gets: its settings as dataclasses, and the same as a JSON document to be kept.

    `typed` are the keys that stand among the overrides; `asked` those of them that a person typed, no pipeline's file.
    """

    verb: str
    config: Any
    document: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    typed: frozenset[str]
    asked: frozenset[str]
    resumed: ResumeInfo | None
    request: Request


@dataclasses.dataclass(frozen=True)
class Composition:
    """A tree whose keys and types are checked; `validate` checks ranges and combinations of values."""

    request: Request
    tree: SettingsTree
    overrides: list[Override]
    choices: dict[str, str]
    groups: list[str] = dataclasses.field(default_factory=list)
    list_choices: Callable[[str], list[str]] = lambda group: []
    parts: Callable[[str], Mapping[str, str]] = lambda kind: {}
    comment: Callable[[str, str], str] = lambda group, choice: ""
    resumed: ResumeInfo | None = None

    @property
    def offered(self) -> list[str]:
        """The groups that an override may choose from: those of the settings, and whole pipelines of trainings."""
        return [*self.groups, *(["pipeline"] if self.request.verb == "train" and self.groups else [])]


def compose(request: Request, find_run: FindRun | None = None) -> Composition:
    """Puts the settings together. Raises ConfigError with everything that is wrong with their keys and types.

    `find_run(where, folder)` gives the run directory that `resume=where` means: of "auto" in the folder of all runs of
    this name, and None where it has none; else in `output_dir`.
    """
    try:
        return compose_with_guesses(request, find_run)
    except ConfigError as error:
        raise ConfigError(*settle(error.problems, request, find_run)) from error


def settle(problems: Sequence[Problem], request: Request, find_run: FindRun | None = None) -> list[Problem]:
    """The problems of a request, advising only overrides that would be accepted instead of those that were not."""
    wrong = {problem.word for problem in problems}
    right = dataclasses.replace(request, overrides=tuple(word for word in request.overrides if word not in wrong))

    @functools.cache
    def wrong_with(words: Words) -> frozenset[str]:
        try:
            validate_with_guesses(
                compose_with_guesses(dataclasses.replace(right, overrides=(*right.overrides, *words)), find_run)
            )
        except BigtrainError as error:
            return frozenset(problem.message for problem in error.problems)
        return frozenset()

    def mends(problem: Problem, words: Words) -> bool:
        found = wrong_with(words)
        return not found or (problem.message not in found and found <= wrong_with(()))  # what else is wrong may stay so

    return [settled(problem, functools.partial(mends, problem)) for problem in problems]


def compose_with_guesses(request: Request, find_run: FindRun | None = None) -> Composition:
    """`compose`, but problems keep all their guesses (hints.Guess): `settle` keeps those that compose."""
    overrides, problems = parse_overrides(request.verb, request.overrides)
    typed = {override.key_or_group: override.value() for override in overrides}
    if find_run and request.verb == "train" and isinstance(where := typed.get("resume"), str):
        if problems:
            raise ConfigError(*problems)
        if where == AUTO:
            return _compose_either(request, overrides, find_run)
        run_dir = find_run(where, Path(str(typed.get("output_dir", "outputs"))))
        assert run_dir is not None
        return _compose_resumed(request, overrides, run_dir)
    try:
        library = Library(request, overrides)
        chosen, values, found = _sort(overrides, library, request.verb)
        problems += found
        entries, chosen_by_group = library.in_order(chosen)
        problems += _missing_choices(library, chosen_by_group)
        tree = SettingsTree(request.verb, library.parts, library.groups)
        for entry in entries:
            _add_file(tree, library, entry)
        if node_type(tree.config) is not VERBS[request.verb].settings:
            fix = f"begin its defaults list with: - {VERBS[request.verb].root}"
            raise ConfigError.of("CONFIG-FILE", f"{request.root}.yaml is no root of bigtrain {request.verb}", fix=fix)
    except ConfigError as error:
        raise ConfigError(*dict.fromkeys((*problems, *error.problems))) from error
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        problem = Problem("CONFIG-FILE", "the settings can't be put together", reason[0], "see the file it names")
        raise ConfigError(*problems, problem) from error
    for override in values:
        tree.apply(override)
    problems += tree.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    choices = {
        group: choice
        for group, choice in chosen_by_group.items()
        if isinstance(choice, str) and choice in library.choices(group)
    }
    if VERBS[request.verb].describes_training and tree.raw()["name"] == "":
        tree.config.name = _default_name(choices, request.verb)
    return Composition(
        request, tree, overrides, choices, library.groups, library.choices, library.parts, library.comment
    )


def validate(composition: Composition) -> Composed:
    """The settings as dataclasses. Raises ConfigError with every value out of range and every conflict."""
    try:
        return validate_with_guesses(composition)
    except ConfigError as error:
        raise ConfigError(*settle(error.problems, composition.request)) from error


def validate_with_guesses(composition: Composition) -> Composed:
    """`validate`, but problems keep all their guesses, for `settle`."""
    tree = composition.tree
    offer_facts(composition.choices)
    config = to_config(tree)
    if isinstance(config, RunConfig) and config.init_from and not composition.resumed:
        config = _with_pretrained(composition, config)
    problems = find_problems(config)
    problems += find_conflicts(config, composition.parts, composition.request.verb)
    asked = frozenset(key for key in tree.typed if tree.origins[key].word not in composition.request.from_file)
    if isinstance(config, RunConfig) and not problems:
        found = find_contradictions(config, in_its_unit(config.trainer.max_duration))
        problems += refused(found, asked)
        problems += extension_without_run(config) if composition.resumed is None else []
    if problems:
        raise ConfigError(*(_with_cause(_with_source(problem, config, composition), tree) for problem in problems))
    return Composed(
        verb=composition.request.verb,
        config=config,
        document=to_document(tree, config, composition.choices),
        choices=composition.choices,
        typed=tree.typed,
        asked=asked,
        overrides=(*composition.request.plugin_overrides, *redact_overrides(composition.request.overrides)),
        resumed=composition.resumed,
        request=composition.request,
    )


def _with_pretrained(composition: Composition, config: RunConfig) -> RunConfig:
    """The settings that come with the weights, where `init_from` names a folder in another library's format."""
    formats = map(importlib.import_module, WEIGHT_FORMATS.values())
    found = next((format for format in formats if format.recognises(str(config.init_from))), None)
    if found is None:
        return config
    tree = composition.tree
    found.adopt(tree, config, composition.choices.get("model", ""), composition.parts("model"))
    adopted: RunConfig = to_config(tree)
    return adopted


def _compose_either(request: Request, overrides: list[Override], find_run: FindRun) -> Composition:
    """`resume=auto`: a new run, or where there is one of this name, that run with the settings it began with."""
    words = [item for item in overrides if item.key_or_group != "resume"]
    new = compose_with_guesses(dataclasses.replace(request, overrides=tuple(str(item.input_line) for item in words)))
    run_dir = find_run(AUTO, Path(new.tree.config.output_dir) / new.tree.config.name)
    if run_dir is None:
        return new
    words = [item for item in words if item.key_or_group != "init_from"]  # of its beginning
    typed = tuple(str(item.input_line) for item in words)
    return _compose_resumed(dataclasses.replace(request, overrides=typed, config_name=None), words, run_dir)


def _compose_resumed(request: Request, overrides: list[Override], run_dir: Path) -> Composition:
    if request.config_name:
        fix = f"leave -cn {request.config_name} out: a resumed run has its own config"
        raise ConfigError.of("CONFIG-COMBINATION", "-cn and resume= can't go together", fix=fix)
    ours = [item for item in overrides if item.key_or_group not in ("resume", "output_dir") and not is_hydra(item)]
    tree, choices, resumed = resumed_tree(run_dir, ours)
    return Composition(request, tree, overrides, choices, resumed=resumed)


def _sort(
    overrides: list[Override], library: Library, verb: str
) -> tuple[list[Override], list[Override], list[Problem]]:
    """Overrides that choose from a group, overrides that set a value, and the problems of wrong choices."""
    chosen, values, problems = [], [], []
    for override in overrides:
        group = override.key_or_group
        if is_hydra(override):
            continue
        if not library.has_group(group) or isinstance(override.value(), dict):
            values.append(override)
        elif problem := choice_problem(override, library, verb):
            problems.append(problem)
        else:
            chosen.append(override)
    return chosen, values, problems


def _missing_choices(library: Library, chosen: Mapping[str, Any]) -> list[Problem]:
    """Choices that a file names and that do not exist, of groups that may be left out: Hydra passes over them."""
    return [
        Problem("CONFIG-CHOICE", f"{group}={choice} is not a choice", fix=choice_fix(group, choice, library))
        for group, choice in chosen.items()
        if group in library.groups and group != "local" and choice is not None and choice not in library.choices(group)
    ]


def _add_file(tree: SettingsTree, library: Library, entry: Entry) -> None:
    """One config of the defaults list: a settings class is merged, the values of a file are assigned strictly."""
    message = f"{entry.parent}.yaml puts {entry.path} at {entry.package or 'the root'}"
    misplaced = ConfigError.of("CONFIG-FILE", message, fix="a choice stands at the node of its group")
    if not library.sources.has_config(entry.path):  # Hydra's own: hydra/launcher/basic
        raise misplaced
    file = library.sources.load(entry.path)
    if not isinstance(file.values, DictConfig):
        raise ConfigError.of("CONFIG-FILE", f"{entry.path}.yaml is no mapping", fix="it holds keys and values")
    values = file.placed(file.package if entry.package is None else entry.package)
    if file.folder is None:
        try:
            tree.add_schema(values)
        except OmegaConfBaseException as error:
            raise misplaced from error
    elif node_type(tree.config) is not dict:  # else there is no schema yet: compose says so
        content: Any = OmegaConf.to_container(values, resolve=False)
        tree.assign(content, Origin(file=file.name))
        library.sources.refuse_hidden(file)


def _default_name(choices: dict[str, str], verb: str) -> str:
    model, data = choices.get("model", "model"), choices.get("data", "data")
    words = choices.get("experiment") or (data if verb == "check-data" else f"{model}-{data}")
    return words.replace("/", "-")


def _with_source(problem: Problem, config: Any, composition: Composition) -> Problem:
    """Adds what the YAML of the experiment and of the data says about data.path, where that is not given."""
    if problem.key != "data.path" or config.data.path:
        return problem
    choices = {group: composition.choices.get(group, "") for group in ("experiment", "data")}
    sentences = [
        f"{group}={choice}: {sentence}"
        for group, choice in choices.items()
        if choice
        for sentence in re.split(r"(?<=[.?]) (?=[A-Z])", composition.comment(group, choice))
        if "data.path" in sentence
    ]
    return dataclasses.replace(problem, cause=" ".join(sentences))


def _with_cause(problem: Problem, tree: SettingsTree) -> Problem:
    """Adds where the value came from, and what may have been meant."""
    key, origin = problem.key, tree.origins.get(problem.key)
    if problem.cause or origin is None:
        return problem
    cause, typed = tree.cause_of(key), origin.word.partition("=")[2]
    found = field_of(key, tree.config)
    if not typed or found is None:
        return dataclasses.replace(problem, cause=cause)
    rounds = rounds_for_value(key, typed, found[1], found[0])
    return Guess(problem.code, problem.message, cause, word=origin.word, key=key, rounds=rounds, otherwise=problem.fix)
