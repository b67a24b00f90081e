"""`-m`: the words of a sweep → one list of words per job, all of them composed and validated.

Hydra's syntax: `a,b`, `choice(a,b)`, `range(1,4)`, `glob(*)` for groups; a list `[1,2]` is one value. The jobs are
the Cartesian product, in the order of the words, the last one turning fastest. Nothing is started from here.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from bigtrain.config.compose import compose, validate
from bigtrain.config.launcher import Launcher, read_launcher
from bigtrain.config.library import Library, Request
from bigtrain.config.redact import redact_words
from bigtrain.config.words import is_hydra, is_launcher, parse_words
from bigtrain.errors import ConfigError, Problem

MAX_JOBS = 1000

_PLAIN_LIST = re.compile(r"(?:choice\()?([^\[\]{}()'\"\\]*)\)?")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep: its number, from 1, the swept values, as words (secrets in them too), and all its words."""

    number: int
    swept: dict[str, str]
    words: tuple[str, ...]

    def __str__(self) -> str:
        """The swept values for people, secrets hidden."""
        return " ".join(redact_words(f"{key}={value}" for key, value in self.swept.items()))

    def shown(self) -> dict[str, str]:
        """`swept` for tables and file names: secrets hidden, of each key its last part, unless two end alike."""
        ends = [key.rpartition(".")[2] for key in self.swept]
        keys = ends if len(set(ends)) == len(ends) else list(self.swept)
        words = redact_words(f"{key}={value}" for key, value in self.swept.items())
        return {key: word.partition("=")[2] for key, word in zip(keys, words, strict=True)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `-m` asks for. `name` and `output_dir` say where its directory goes; `notes` are sentences to show."""

    request: Request
    jobs: tuple[Job, ...]
    launcher: Launcher
    notes: tuple[str, ...] = ()
    name: str = ""
    output_dir: str = ""

    def heading(self, job: Job) -> str:
        """job 2/4: optimizer.learning_rate=3e-3 model=cnn"""
        return f"job {job.number}/{len(self.jobs)}: {job}".rstrip(": ")

    def request_of(self, job: Job) -> Request:
        """What to compose for one job."""
        return dataclasses.replace(self.request, words=job.words)


def expand(request: Request) -> Sweep:
    """The jobs that the words of a request ask for. Raises ConfigError for words that no sweep can use."""
    if request.verb != "train":
        fix = f"call bigtrain {request.verb} once for each"
        raise ConfigError.of("CONFIG-FLAG", f"-m starts trainings, not bigtrain {request.verb}", fix=fix)
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        message = f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but a sweep is one process that starts others"
        fix = "start it without the launcher; trainer.gpus=N and trainer.processes=N give each job its ranks"
        raise ConfigError.of("CONFIG-SWEEP", message, cause="the environment, set by torchrun or its kin", fix=fix)
    overrides, problems = parse_words(request.verb, request.words, multirun=True)
    if problems:
        raise ConfigError(*problems)
    ours = [override for override in overrides if not is_launcher(override)]
    _refuse_unfit(ours)
    library: Library | None = None
    axes: list[tuple[str, list[str]]] = []  # key as typed → its values, as words
    for override in ours:
        if not override.is_sweep_override():
            continue
        if isinstance(override.value(), Glob):
            library = library or Library(request, [item for item in ours if is_hydra(item)])
            override = dataclasses.replace(override, config_loader=None, _value=_picked(override, library))
        axes.append((override.get_key_element(), _values(override)))
    fixed = [str(override.input_line) for override in ours if not override.is_sweep_override()]
    combinations = list(itertools.islice(itertools.product(*(values for _, values in axes)), MAX_JOBS + 1))
    if len(combinations) > MAX_JOBS:
        fix = "sweep over fewer values, in several sweeps"
        raise ConfigError.of("CONFIG-SWEEP", f"these words ask for more than {MAX_JOBS:,} jobs", fix=fix)
    jobs = []
    for number, values in enumerate(combinations, start=1):
        swept = {key: value for (key, _), value in zip(axes, values, strict=True)}
        words = (*fixed, *(f"{key}={value}" for key, value in swept.items()))
        jobs.append(Job(number, {key.lstrip("+"): value for key, value in swept.items()}, words))
    launcher = read_launcher(override for override in overrides if is_launcher(override))
    return Sweep(request, tuple(jobs), launcher, tuple(_notes(ours)))


def validated(sweep: Sweep) -> Sweep:
    """The sweep, with where it goes. Raises ConfigError with what is wrong with any of its jobs, naming the jobs."""
    found: dict[Problem, list[Job]] = {}
    configs: list[Any] = []
    for job in sweep.jobs:
        try:
            configs.append(validate(compose(sweep.request_of(job))).config)
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(job)
    if found:
        notes = (Problem("CONFIG-SWEEP", note) for note in sweep.notes)  # perhaps that is what went wrong
        raise ConfigError(*(_naming_jobs(problem, jobs, sweep) for problem, jobs in found.items()), *notes)
    places = {config.output_dir for config in configs}
    if len(places) > 1:
        fix = "give one output_dir: each job has a directory of its own in it"
        raise ConfigError.of("CONFIG-SWEEP", f"the jobs have {len(places)} output_dir", fix=fix)
    names = {config.name for config in configs}
    name = names.pop() if len(names) == 1 else "mixed"
    return dataclasses.replace(sweep, name=name, output_dir=places.pop())


def _refuse_unfit(overrides: Iterable[Override]) -> None:
    """Raises ConfigError for resume=, and for a swept key that is given again."""
    seen: dict[str, Override] = {}
    for override in overrides:
        key, cause = override.key_or_group, f'command line, "{override.input_line}"'
        if key == "resume":
            fix = "leave -m out: bigtrain resume=…"
            raise ConfigError.of("CONFIG-SWEEP", "-m starts new runs; resume= goes on with one", cause=cause, fix=fix)
        before = seen.setdefault(key, override)
        if before is not override and (override.is_sweep_override() or before.is_sweep_override()):
            raise ConfigError.of("CONFIG-SWEEP", f"{key} is given twice", cause=cause, fix=f"keep one {key}=…")


def _picked(override: Override, library: Library) -> list[str]:
    """The choices that a glob means."""
    group, glob = override.key_or_group, override.value()
    assert isinstance(glob, Glob)
    cause = f'command line, "{override.input_line}"'
    if not library.has_group(group):
        fix = f"list the values: {group}=a,b"
        raise ConfigError.of("CONFIG-SWEEP", f"{group} has no choices that glob() could pick", cause=cause, fix=fix)
    picked: list[str] = sorted(glob.filter(library.choices(group)))
    if not picked:
        fix = f"choices: {', '.join(library.choices(group))}"
        raise ConfigError.of("CONFIG-SWEEP", f"no choice of {group} is like that", cause=cause, fix=fix)
    return picked


def _values(override: Override) -> list[str]:
    """The values as words: as typed (1e-3, not 0.001) where commas alone part them, else as Hydra writes them."""
    cause = f'command line, "{override.input_line}"'
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1))
    except (HydraException, ValueError) as error:  # range(1,2,0)
        fix = "for instance range(1,4), range(0,1,0.25)"
        raise ConfigError.of("CONFIG-SWEEP", f"{override.key_or_group}: {error}", cause=cause, fix=fix) from error
    typed = _PLAIN_LIST.fullmatch(str(override.input_line).partition("=")[2])
    if typed and len(typed[1].split(",")) == len(values) and override.is_choice_sweep():
        values = [value.strip() for value in typed[1].split(",")]
    repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated or not values:
        message = f"{override.key_or_group} has {f'{repeated[0]} twice' if repeated else 'no value'}"
        raise ConfigError.of("CONFIG-SWEEP", message, cause=cause, fix="give each value once")
    return values


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
        if isinstance(override.value(), str) and "," in value and value[0] not in "'\"":
            (shown,) = redact_words([f"{key}={value}"])
            yield f"{shown} is one text; to try several: {key}=choice({shown.partition('=')[2]})"
