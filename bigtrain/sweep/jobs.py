"""`-m`: the overrides of a sweep → one list of overrides per job, all of them composed and validated.

Hydra's syntax: `a,b`, `choice(a,b)`, `range(1,4)`, `glob(*)` for groups; a list `[1,2]` is one value. The jobs are
the Cartesian product, in the order of the overrides, the last one turning fastest. With `sweep=optuna` (search.py) they
are chosen one after the other instead; with `sweep=scaling` (scaling.py) a law is fitted to them. Nothing is started
from here.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bigtrain.config.compose import compose_with_guesses, settle, validate_with_guesses
from bigtrain.config.files import found
from bigtrain.config.hydra_adapter import Glob, Override, names_override
from bigtrain.config.library import Library, Request
from bigtrain.config.overrides import is_hydra, is_launcher, is_sweep_setting, parse_overrides
from bigtrain.config.redact import redact_overrides
from bigtrain.config.watched import watched_metric
from bigtrain.errors import ConfigError, Problem
from bigtrain.sweep.axes import MAX_JOBS, picked, values_of
from bigtrain.sweep.launcher import Launcher, read_launcher
from bigtrain.sweep.saved import hidden_words, saved_request
from bigtrain.sweep.scaling import Scaling, require_grid, sizes_axis
from bigtrain.sweep.search import Search, read_search
from bigtrain.sweep.settings import ScalingSettings, read_settings, sweep_kind

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,0\d+")  # 0,001
_MOST_TRIED = 8  # combinations, before a value is refused


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep: its number, from 1, the swept values, as typed (with secrets), and all its overrides."""

    number: int
    swept: dict[str, str]
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        """The swept values for people, secrets hidden."""
        return " ".join(redact_overrides(f"{key}={value}" for key, value in self.swept.items()))

    def shown(self) -> dict[str, str]:
        """`swept` for tables and file names: secrets hidden, of each key its last part, unless two end alike."""
        ends = [key.rpartition(".")[2] for key in self.swept]
        keys = ends if len(set(ends)) == len(ends) else list(self.swept)
        words = redact_overrides(f"{key}={value}" for key, value in self.swept.items())
        return {key: word.partition("=")[2] for key, word in zip(keys, words, strict=True)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `-m` asks for. `name` and `output_dir` say where its directory goes; `notes` are sentences to show.

    With `search` the only job is an example, the first of each key's values.
    """

    request: Request
    jobs: tuple[Job, ...]
    launcher: Launcher
    notes: tuple[str, ...] = ()
    name: str = ""
    output_dir: str = ""
    search: Search | None = None
    scaling: Scaling | None = None

    def heading(self, job: Job) -> str:
        """job 2/4: optimizer.learning_rate=3e-3 model=cnn"""
        kind, count = ("trial", self.search.settings.trials) if self.search else ("job", len(self.jobs))
        return f"{kind} {job.number}/{count}: {job}".rstrip(": ")

    def job(self, number: int, swept: dict[str, str]) -> Job:
        """The job of a search that has these values, by key as typed."""
        assert self.search is not None
        return _job(number, self.search.fixed, swept)

    def request_of(self, job: Job) -> Request:
        """What to compose for one job."""
        return dataclasses.replace(self.request, overrides=job.overrides)


def expand(request: Request) -> Sweep:
    """The jobs that the overrides of a request ask for. Raises ConfigError for overrides that no sweep can use."""
    if request.verb != "train":
        fix = f"call bigtrain {request.verb} once for each"
        raise ConfigError.of("CONFIG-FLAG", f"-m starts trainings, not bigtrain {request.verb}", fix=fix)
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        message = f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but a sweep is one process that starts others"
        fix = "start it without the launcher; trainer.gpus=N and trainer.processes=N give each job its ranks"
        raise ConfigError.of("CONFIG-SWEEP", message, cause="the environment, set by torchrun or its kin", fix=fix)
    overrides, problems = parse_overrides(request.verb, request.overrides, multirun=True)
    if problems:
        raise ConfigError(*problems)
    ours = [override for override in overrides if not is_launcher(override)]
    if any(override.key_or_group == "resume" for override in ours):
        saved, sweep_dir = saved_request(request, overrides)
        return _resumed(expand(saved), sweep_dir)
    kind = sweep_kind(ours)
    _refuse_unfit(ours, kind == "optuna")
    if kind == "optuna":
        return _expand_search(request, overrides)
    scaling, sizes = None, []
    if kind == "scaling":
        scaling = _read_scaling(request, ours)
        ours = [override for override in ours if not is_sweep_setting(override)]
        sizes = sizes_axis(scaling.settings, ours)
    axes = [*([sizes] if sizes else []), *_axes(request, ours)]
    fixed = [str(override.input_line) for override in ours if not override.is_sweep_override()]
    combinations = list(itertools.islice(itertools.product(*axes), MAX_JOBS + 1))
    if len(combinations) > MAX_JOBS:
        fix = "sweep over fewer values, in several sweeps"
        raise ConfigError.of("CONFIG-SWEEP", f"these words ask for more than {MAX_JOBS:,} jobs", fix=fix)
    jobs = [
        _job(number, fixed, {key: value for part in parts for key, value in part.items()})
        for number, parts in enumerate(combinations, start=1)
    ]
    launcher = read_launcher(override for override in overrides if is_launcher(override))
    return Sweep(request, tuple(jobs), launcher, tuple(_notes(ours)), scaling=scaling)


def _axes(request: Request, overrides: list[Override]) -> list[list[dict[str, str]]]:
    """Per swept key its values, as {key as typed: override}."""
    library: Library | None = None
    axes = []
    for override in overrides:
        if not override.is_sweep_override():
            continue
        if isinstance(override.value(), Glob):
            library = library or Library(request, [item for item in overrides if is_hydra(item)])
            override = names_override(override, picked(override, library))
        axes.append([{override.get_key_element(): value} for value in values_of(override)])
    return axes


def _read_scaling(request: Request, overrides: list[Override]) -> Scaling:
    settings, problems = read_settings(override for override in overrides if is_sweep_setting(override))
    problems += hidden_words(request)
    if problems:
        raise ConfigError(*problems)
    assert isinstance(settings, ScalingSettings)
    return Scaling(settings)


def _resumed(sweep: Sweep, sweep_dir: Path) -> Sweep:
    if sweep.search is not None:
        return dataclasses.replace(sweep, search=dataclasses.replace(sweep.search, resumed=sweep_dir))
    if sweep.scaling is not None:
        return dataclasses.replace(sweep, scaling=dataclasses.replace(sweep.scaling, resumed=sweep_dir))
    raise ConfigError.of("CONFIG-FILE", f"{sweep_dir} is no sweep of sweep=optuna or scaling", fix="start a new one")


def _job(number: int, fixed: Iterable[str], swept: dict[str, str]) -> Job:
    words = (*fixed, *(f"{key}={value}" for key, value in swept.items()))
    return Job(number, {key.lstrip("+"): value for key, value in swept.items()}, words)


def _expand_search(request: Request, overrides: list[Override]) -> Sweep:
    if launchers := [override for override in overrides if is_launcher(override)]:
        fix = "sweep.n_jobs=N runs N trials at a time; several terminals may share a sweep: bigtrain -m resume=…"
        message = f"{launchers[0].key_or_group} has no effect with sweep=optuna"
        cause = f'command line, "{launchers[0].input_line}"'
        raise ConfigError.of("CONFIG-SWEEP", message, cause=cause, fix=fix)
    search = read_search(request, overrides)
    first = _job(1, search.fixed, {part.key: part.samples()[0] for part in search.space})
    notes = tuple(_notes(override for override in overrides if not is_sweep_setting(override)))
    return Sweep(request, (first,), read_launcher([]), notes, search=search)


def validated(sweep: Sweep) -> Sweep:
    """The sweep, with where it goes. Raises ConfigError with what is wrong with any of its jobs, naming the jobs.

    Of a search every value is tried; it is wrong where it goes with none of the values of the others that it was tried
    with.
    """
    if sweep.search is not None:
        return _validated_search(sweep, sweep.search)
    found: dict[Problem, list[Job]] = {}
    configs: list[Any] = []
    for job in sweep.jobs:
        try:
            configs.append(validate_with_guesses(compose_with_guesses(sweep.request_of(job))).config)
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(job)
    if found:
        notes = (Problem("CONFIG-SWEEP", note) for note in sweep.notes)  # perhaps that is what went wrong
        settled = (settle([problem], sweep.request_of(jobs[0]))[0] for problem, jobs in found.items())
        named = (_naming_jobs(*pair, sweep) for pair in zip(settled, found.values(), strict=True))
        raise ConfigError(*named, *notes)
    if sweep.scaling is not None:
        require_grid(sweep.scaling.settings, configs)
    return _placed(sweep, configs)


def _placed(sweep: Sweep, configs: list[Any]) -> Sweep:
    places = {config.output_dir for config in configs}
    if len(places) > 1:
        fix = "give one output_dir: each job has a directory of its own in it"
        raise ConfigError.of("CONFIG-SWEEP", f"the jobs have {len(places)} output_dir", fix=fix)
    names = {config.name for config in configs}
    name = names.pop() if len(names) == 1 else "mixed"
    return dataclasses.replace(sweep, name=name, output_dir=places.pop())


def _validated_search(sweep: Sweep, search: Search) -> Sweep:
    choices = [(part.key, part.samples()) for part in search.space]
    tried: dict[tuple[str, ...], Any] = {}
    found: dict[str, Problem] = {}
    for place, (_, options) in enumerate(choices):
        for option in options:
            combinations = list(_combinations_with(choices, place, option))
            for combination in combinations:
                if combination not in tried:
                    tried[combination] = _tried(sweep, choices, combination)
                if not isinstance(tried[combination], ConfigError):
                    break
            else:
                for problem in tried[combinations[0]].problems:
                    found.setdefault(problem.message, problem)
    if found:
        problems = settle(list(found.values()), sweep.request_of(sweep.jobs[0]))
        raise ConfigError(*problems, *(Problem("CONFIG-SWEEP", note) for note in sweep.notes))
    configs = [config for config in tried.values() if not isinstance(config, ConfigError)]
    return _with_metric(_placed(sweep, configs), search, configs)


def _combinations_with(
    choices: list[tuple[str, tuple[str, ...]]], place: int, option: str
) -> Iterator[tuple[str, ...]]:
    """Combinations that have this option at this place: beside the first ones of the others, then other ones."""
    longest = max(len(options) for _, options in choices)
    for turn in range(min(longest, _MOST_TRIED)):
        yield tuple(
            option if index == place else options[turn % len(options)] for index, (_, options) in enumerate(choices)
        )


def _tried(sweep: Sweep, choices: list[tuple[str, tuple[str, ...]]], combination: tuple[str, ...]) -> Any:
    """The config of these values, or the ConfigError that they end in, which names them."""
    job = sweep.job(1, {key: option for (key, _), option in zip(choices, combination, strict=True)})
    try:
        return validate_with_guesses(compose_with_guesses(sweep.request_of(job))).config
    except ConfigError as error:
        causes = (f"tried with {job}: {problem.cause}".rstrip(": ") for problem in error.problems)
        pairs = zip(error.problems, causes, strict=True)
        return ConfigError(*(dataclasses.replace(problem, cause=cause) for problem, cause in pairs))


def _with_metric(sweep: Sweep, search: Search, configs: list[Any]) -> Sweep:
    watched = {watched_metric(config.trainer.early_stopping, config.task) for config in configs}
    if len(watched) > 1:
        shown = ", ".join(sorted(f"val/{name} ({'larger' if up else 'smaller'} is better)" for name, up in watched))
        fix = "sweep.metric=loss, or another that all of them measure"
        raise ConfigError.of("CONFIG-SWEEP", f"the trials would not have one metric in common: {shown}", fix=fix)
    ((name, higher),) = watched
    return dataclasses.replace(sweep, search=dataclasses.replace(search, metric=f"val/{name}", higher_is_better=higher))


def _refuse_unfit(overrides: Iterable[Override], searching: bool) -> None:
    """Raises ConfigError for an interval without a search, a decimal comma, and a swept key that is given again."""
    seen: dict[str, Override] = {}
    for override in overrides:
        key, cause = override.key_or_group, f'command line, "{override.input_line}"'
        if override.is_interval_sweep() and not searching:
            fix = f"list the values ({key}=a,b), give a range ({key}=range(1,4)), or add sweep=optuna"
            message = f"{key} is given an interval, which has no list of values"
            raise ConfigError.of("CONFIG-WORD", message, cause=cause, fix=fix)
        if override.is_choice_sweep() and _DECIMAL_COMMA.fullmatch(value := str(override.input_line).partition("=")[2]):
            message = f"{key} is given the values {value.replace(',', ' and ')}, which look like one number"
            fix = f"{key}={value.replace(',', '.')}: decimals have a point; several values: {key}=choice({value})"
            raise ConfigError.of("CONFIG-WORD", message, cause=cause, fix=fix)
        before = seen.setdefault(key, override)
        if before is not override and (override.is_sweep_override() or before.is_sweep_override()):
            raise ConfigError.of("CONFIG-SWEEP", f"{key} is given twice", cause=cause, fix=f"keep one {key}=…")


def _naming_jobs(problem: Problem, jobs: list[Job], sweep: Sweep) -> Problem:
    if len(jobs) == len(sweep.jobs):
        return problem
    first, rest = jobs[0], len(jobs) - 1
    where = f"job {first.number}/{len(sweep.jobs)} ({first})" + (f" and {rest} more" if rest else "")
    return dataclasses.replace(problem, cause=f"{where}: {problem.cause}" if problem.cause else where)


def _notes(overrides: Iterable[Override]) -> Iterable[str]:
    """Commas that were taken as text."""
    for override in overrides:
        key, value = override.key_or_group, str(override.input_line).partition("=")[2]
        if isinstance(override.value(), str) and "," in value and value[0] not in "'\"" and not found(value):
            (shown,) = redact_overrides([f"{key}={value}"])
            yield f"{shown} is one text; to try several: {key}=choice({shown.partition('=')[2]})"
