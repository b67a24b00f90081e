"""`pipeline=NAME`: the YAML of a pipeline and the words that change it → stages and rounds, read strictly. No torch.

    overrides: [seed=1]                          # words for every training stage, before its own
    stages:
      pretrain:
        overrides: [model=bert, trainer.max_duration=500step]
      finetune:
        init_from: pretrain                      # a stage above, or what init_from= takes
        overrides: [model=bert, task=classification, …]
        control: true                            # the same from scratch, to say what pretraining gained
      measure:
        evaluate: finetune
        split: [val, test]
    iterate:
      until: {metric: finetune/val/accuracy, target: 0.9}
      max_rounds: 3
      patience: 1
      continue: [pretrain]                       # each round goes on from the weights of the round before
      schedule:                                  # words for round 2, round 3, …, by stage
        - {pretrain: [trainer.max_duration=1000step]}

A stage is what one would type: its words are composed and checked like those of a command line. On the command line
`pipeline.stages.STAGE.KEY=VALUE` adds a word to one stage, `pipeline.iterate.KEY=VALUE` changes the rounds, and every
other word goes to all training stages.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigtrain.config.hints import did_you_mean
from bigtrain.config.hydra_adapter import Override
from bigtrain.config.library import Library, Request, choice_fix
from bigtrain.config.settings import find_problems, setting
from bigtrain.config.strict import show
from bigtrain.config.words import is_of_pipeline, parse_words
from bigtrain.errors import ConfigError, Problem, nearest

GROUP = "pipeline"
SPLITS = ("train", "val", "test")
CONTROL = "_control"
MAX_ROUNDS = 100

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


@dataclasses.dataclass
class Stage:
    """A named step of every round: a training, by its words, or an evaluation of one."""

    overrides: list[str] = setting([], "Words of the stage, as one would type them.")
    init_from: str | None = setting(None, "A stage above, or what init_from= takes: the weights to start from.")
    control: bool = setting(True, "Where it starts from a stage: train it from scratch, too, and say what was gained.")
    evaluate: str | None = setting(None, "The training stage that this one evaluates, instead of training.")
    split: list[str] = setting(["test"], "Splits that an evaluation is made on.")


@dataclasses.dataclass
class Until:
    """What ends the rounds."""

    metric: str | None = setting(None, "stage/split/metric, for instance finetune/val/accuracy.")
    target: float | None = setting(None, "The rounds end when the metric is as good as this.")


@dataclasses.dataclass
class Iterate:
    """How often the stages are gone through, and what changes from one round to the next."""

    until: Until = setting(Until, "What ends the rounds.")
    max_rounds: int = setting(1, "Rounds at most.", at_least=1, at_most=MAX_ROUNDS)
    patience: int | None = setting(None, "End after so many rounds in a row without a better metric.", at_least=1)
    continues: list[str] = setting([], "Stages that go on from their own weights of the round before.")
    schedule: list[dict[str, list[str]]] = setting([], "Words for round 2, round 3, …, by stage.")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All that was asked for. Every training stage has the words `common` before its own, and `words` after them."""

    choice: str
    name: str
    output_dir: str
    source: str
    stages: dict[str, Stage]
    iterate: Iterate
    common: tuple[str, ...]
    words: tuple[str, ...]
    typed: dict[str, tuple[str, ...]]  # stage → the words that the command line adds to it, last
    request: Request

    @property
    def training(self) -> dict[str, Stage]:
        """The stages that train."""
        return {name: stage for name, stage in self.stages.items() if stage.evaluate is None}

    def parent(self, name: str) -> str | None:
        """The stage whose weights a stage starts from; None where it starts from none, or from something else."""
        start = self.stages[name].init_from
        return start if start in self.stages else None


def read_pipeline(request: Request) -> Pipeline:
    """The pipeline that a request's words ask for. Raises ConfigError with everything that is wrong with it."""
    ours = [word.lstrip("+") for word in request.words if is_of_pipeline(word)]
    words = [word for word in request.words if not is_of_pipeline(word)]
    chosen = [word.partition("=")[2] for word in ours if word.startswith(f"{GROUP}=")]
    if len(chosen) != 1:
        message = f"{GROUP}= is given {len(chosen)} times" if chosen else f"{ours[0]} changes no pipeline"
        raise ConfigError.of("CONFIG-PIPELINE", message, fix=f"choose one: {GROUP}=quickstart")
    if any(word.startswith("resume=") for word in words):
        fix = "leave resume= out: a pipeline that is run again goes on where it was"
        raise ConfigError.of("CONFIG-PIPELINE", "resume= goes on with one run, not with a pipeline", fix=fix)
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        message = f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but a pipeline is one process that starts its ranks"
        fix = "start it without the launcher; trainer.gpus=N and trainer.processes=N give each stage its ranks"
        raise ConfigError.of("CONFIG-PIPELINE", message, cause="the environment", fix=fix)
    content, source = _read_file(request, chosen[0])
    problems: list[Problem] = []
    stages, iterate, common = _sections(content, source, problems)
    typed = _apply(ours, stages, iterate, problems)
    if not problems:
        problems += find_problems(iterate, f"{GROUP}.iterate")
        problems += list(_conflicts(stages, iterate, source))
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    own = {key: _last(words, key) for key in ("name", "output_dir")}
    return Pipeline(
        choice=chosen[0],
        name=own["name"] or chosen[0].replace("/", "-"),
        output_dir=own["output_dir"] or "outputs",
        source=source,
        stages=stages,
        iterate=iterate,
        common=tuple(common),
        words=tuple(word for word in words if word.partition("=")[0] not in own),
        typed=typed,
        request=request,
    )


def _read_file(request: Request, choice: str) -> tuple[dict[str, Any], str]:
    """The content of configs/pipeline/<choice>.yaml, of ours or of a folder of the user's."""
    library = Library(dataclasses.replace(request, config_name=None), [])
    if choice not in library.choices(GROUP):
        cause = f'command line, "{GROUP}={choice}"'
        fix = choice_fix(GROUP, choice, library)
        raise ConfigError.of("CONFIG-CHOICE", f"{GROUP}={choice} is not a choice", cause=cause, fix=fix)
    file = library.sources.load(f"{GROUP}/{choice}")
    source = file.name
    content: Any = OmegaConf.to_container(file.values, resolve=False)
    if not isinstance(content, dict) or file.defaults:
        fix = "give it stages; what other files bring, a stage brings by its words"
        raise ConfigError.of("CONFIG-PIPELINE", f"{source} is no pipeline", fix=fix)
    return content, source


def _sections(
    content: dict[str, Any], source: str, problems: list[Problem]
) -> tuple[dict[str, Stage], Iterate, list[str]]:
    """The file's stages, rounds, and the words for all."""
    _refuse_unknown(content, ("stages", "iterate", "overrides"), "", source, problems)
    stages = {}
    listed = content.get("stages")
    if not isinstance(listed, dict) or not listed:
        problems.append(Problem("CONFIG-PIPELINE", "a pipeline needs stages", source, "stages: {pretrain: …}"))
        listed = {}
    for name, entry in listed.items():
        if not _NAME.fullmatch(str(name)) or str(name).endswith(CONTROL):
            fix = f"a stage has a name of a-z, 0-9 and _, not ending in {CONTROL}"
            problems.append(Problem("CONFIG-PIPELINE", f"stages.{name} can't be called so", source, fix))
        stages[str(name)] = _filled(Stage, entry, f"stages.{name}", source, problems)
    given = content.get("iterate") or {}
    until = given.get("until") if isinstance(given, dict) else None
    plain = {key: value for key, value in given.items() if key != "until"} if isinstance(given, dict) else given
    iterate = _filled(Iterate, plain, "iterate", source, problems)
    if until is not None:
        iterate.until = _filled(Until, until, "iterate.until", source, problems)
    common = content.get("overrides") or []
    if not _fits(common, list[str]):
        problems.append(Problem("CONFIG-PIPELINE", "overrides is no list of words", source, "overrides: [seed=1]"))
        common = []
    return stages, iterate, list(common)


def _filled(section: type, entry: Any, path: str, source: str, problems: list[Problem]) -> Any:
    """A section's dataclass with the values of the file."""
    filled = section()
    if entry is None:
        return filled
    if not isinstance(entry, dict):
        problems.append(Problem("CONFIG-PIPELINE", f"{path} is {show(entry)}, not a group of keys", source))
        return filled
    fields = {_key(field.name): field for field in dataclasses.fields(section) if field.name != "until"}
    _refuse_unknown(entry, fields, f"{path}.", source, problems)
    for key, value in entry.items():
        if key in fields and (problem := _set(filled, fields[key], value, f"{path}.{key}", source)):
            problems.append(problem)
    return filled


def _set(section: Any, field: dataclasses.Field, value: Any, path: str, cause: str) -> Problem | None:
    """Sets one value, if it is of the right type."""
    if isinstance(value, str) and "list" in str(field.type) and field.name in ("split", "continues"):
        value = [value]  # one of them
    if field.type in ("float | None",) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not _fits(value, field.type):
        words = {"list[str]": "a list of words", "bool": "true or false", "int": "a whole number"}
        allowed = words.get(str(field.type), field.metadata["help"])
        return Problem("CONFIG-PIPELINE", f"{path} is {show(value)}", cause, f"it must be {allowed}")
    setattr(section, field.name, value)
    return None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a field's type, which is one of a handful."""
    if hint in (list[str], "list[str]"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if hint == "list[dict[str, list[str]]]":
        return isinstance(value, list) and all(
            isinstance(item, dict) and all(_fits(words, list[str]) for words in item.values()) for item in value
        )
    kinds: dict[str, tuple[type, ...]] = {
        "str | None": (str, type(None)),
        "float | None": (float, type(None)),
        "int | None": (int, type(None)),
        "int": (int,),
        "bool": (bool,),
    }
    return isinstance(value, kinds[hint]) and (bool in kinds[hint]) == isinstance(value, bool)


def _apply(
    words: Sequence[str], stages: dict[str, Stage], iterate: Iterate, problems: list[Problem]
) -> dict[str, tuple[str, ...]]:
    """The words `pipeline.…=` of the command line: changes stages and rounds; returns words to add, by stage."""
    added: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, _, value = word.partition("=")
        cause = f'command line, "{word}"'
        path = key.split(".")[1:]
        if not path:
            continue
        if path[0] == "stages" and len(path) >= 3:
            name, rest = path[1], ".".join(path[2:])
            if name not in stages:
                near = did_you_mean([f"{GROUP}.stages.{option}.{rest}={value}" for option in nearest(name, stages)])
                fix = near or f"the stages are {', '.join(stages)}"
                problems.append(Problem("CONFIG-KEY", f"there is no stage {name}", cause, fix))
            elif rest in ("init_from", "control", "evaluate", "split"):
                problems += _typed(stages[name], rest, word, f"{GROUP}.stages.{name}.{rest}", cause)
            else:
                added[name] = (*added.get(name, ()), f"{rest}={value}")
        elif path[0] == "iterate" and len(path) == 2 and path[1] != "until":
            problems += _typed(iterate, path[1], word, key, cause)
        elif path[:2] == ["iterate", "until"] and len(path) == 3:
            problems += _typed(iterate.until, path[2], word, key, cause)
        else:
            fix = f"write {GROUP}.stages.STAGE.KEY=VALUE or {GROUP}.iterate.KEY=VALUE"
            problems.append(Problem("CONFIG-KEY", f"{key} is nothing that a pipeline has", cause, fix))
    return added


def _typed(section: Any, key: str, word: str, path: str, cause: str) -> list[Problem]:
    """One typed value, put into a section."""
    fields = {_key(field.name): field for field in dataclasses.fields(section) if field.name != "until"}
    if key not in fields:
        near = did_you_mean(nearest(key, fields)) or f"allowed are {', '.join(fields)}"
        return [Problem("CONFIG-KEY", f"{path} is not a setting", cause, near)]
    try:
        overrides, problems = parse_words("train", [f"extra.{key}={word.partition('=')[2]}"])
        value = _value(overrides[0]) if overrides else None
    except (OmegaConfBaseException, ValueError) as error:
        return [Problem("CONFIG-WORD", f"{path}: {error}", cause)]
    if problems:
        return [dataclasses.replace(problem, cause=cause) for problem in problems]
    problem = _set(section, fields[key], value, path, cause)
    return [problem] if problem else []


def _value(override: Override) -> Any:
    value = override.value()
    return [str(item) for item in value] if isinstance(value, list) and value and _plain(value) else value


def _plain(items: list[Any]) -> bool:
    return all(isinstance(item, (str, int, float)) for item in items)


def _key(name: str) -> str:
    """The name of a field as it is written: `continue` is a word of Python's."""
    return "continue" if name == "continues" else name


def _refuse_unknown(
    entry: Mapping[Any, Any], known: Iterable[str], path: str, source: str, problems: list[Problem]
) -> None:
    known = list(known)
    for key in entry:
        if key not in known:
            fix = did_you_mean(nearest(str(key), known)) or f"allowed are {', '.join(known)}"
            problems.append(Problem("CONFIG-KEY", f"{path}{key} is not a setting of a pipeline", source, fix))


def _conflicts(stages: dict[str, Stage], iterate: Iterate, source: str) -> Iterable[Problem]:
    """What does not go together."""
    before: list[str] = []
    for name, stage in stages.items():
        where = f"stages.{name}"
        if stage.init_from == "???":
            fix = f"give it: {GROUP}.stages.{name}.init_from=…"
            yield Problem("CONFIG-PIPELINE", f"{where}.init_from has no value", source, fix)
        if stage.evaluate is not None:
            if stage.evaluate not in before or stages[stage.evaluate].evaluate is not None:
                fix = f"name a training stage above it: {', '.join(before) or 'there is none'}"
                yield Problem("CONFIG-PIPELINE", f"{where}.evaluate is {stage.evaluate}", source, fix)
            if stage.init_from is not None:
                yield Problem("CONFIG-PIPELINE", f"{where} evaluates; it can't have an init_from", source)
            unknown = [split for split in stage.split if split not in SPLITS]
            if unknown or not stage.split:
                fix = f"allowed are {', '.join(SPLITS)}"
                yield Problem("CONFIG-PIPELINE", f"{where}.split has {show(unknown)}", source, fix)
        elif stage.init_from in stages and (
            stage.init_from not in before or stages[stage.init_from].evaluate is not None
        ):
            fix = f"name a training stage above it: {', '.join(before) or 'there is none'}"
            yield Problem("CONFIG-PIPELINE", f"{where}.init_from is {stage.init_from}", source, fix)
        if stage.evaluate is None:
            before.append(name)
    yield from _conflicts_of_rounds(stages, iterate, before, source)


def _conflicts_of_rounds(
    stages: dict[str, Stage], iterate: Iterate, training: list[str], source: str
) -> Iterable[Problem]:
    until = iterate.until
    if (until.metric is None) != (until.target is None) and iterate.patience is None:
        fix = "give both: until: {metric: finetune/val/accuracy, target: 0.9}"
        yield Problem("CONFIG-PIPELINE", "iterate.until has only one of metric and target", source, fix)
    if iterate.patience is not None and until.metric is None:
        fix = "until: {metric: finetune/val/accuracy}"
        yield Problem("CONFIG-PIPELINE", "iterate.patience needs a metric to watch", source, fix)
    if until.metric is not None:
        stage, _, rest = until.metric.partition("/")
        split, _, metric = rest.partition("/")
        if stage not in stages or split not in SPLITS or not metric:
            near = did_you_mean([f"{name}/{rest}" for name in nearest(stage, stages)]) if stage not in stages else ""
            fix = near or f"write stage/split/metric, of the stages {', '.join(stages)} and {', '.join(SPLITS)}"
            yield Problem("CONFIG-PIPELINE", f"iterate.until.metric is {until.metric}", source, fix)
    for name in iterate.continues:
        if name not in training or stages[name].init_from in stages:
            fix = "name training stages that start from no other stage"
            yield Problem("CONFIG-PIPELINE", f"iterate.continue has {name}", source, fix)
    for number, words in enumerate(iterate.schedule, start=2):
        for name in words:
            if name not in stages:
                fix = did_you_mean(nearest(name, stages)) or f"the stages are {', '.join(stages)}"
                yield Problem("CONFIG-PIPELINE", f"iterate.schedule has {name} for round {number}", source, fix)
    if iterate.max_rounds > 1 + len(iterate.schedule) and not iterate.continues:
        planned = 1 + len(iterate.schedule)
        fix = "give a schedule for it, or let stages go on: continue: [pretrain]"
        message = f"iterate.max_rounds is {iterate.max_rounds}, but round {planned + 1} would be as round {planned}"
        yield Problem("CONFIG-PIPELINE", message, source, fix)


def _last(words: Iterable[str], key: str) -> str | None:
    """The value that a plain text setting is given last."""
    values = [word.partition("=")[2].strip("'\"") for word in words if word.partition("=")[0] == key]
    return values[-1] if values else None
