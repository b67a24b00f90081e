"""`pipeline=NAME`: a pipeline's YAML and the overrides that change it → stages and rounds, read strictly. No torch.

    overrides: [seed=1]                          # overrides for every training stage, before its own
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
      schedule:                                  # overrides for round 2, round 3, …, by stage
        - {pretrain: [trainer.max_duration=1000step]}

A stage is what one would type: its overrides are composed and checked like those of a command line. On the command line
`pipeline.stages.STAGE.KEY=VALUE` adds an override to one stage, `pipeline.iterate.KEY=VALUE` changes the rounds, and
every other override goes to all training stages.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import OmegaConf

from bigtrain.config.hints import did_you_mean, settled
from bigtrain.config.library import Library, Request, choice_fix
from bigtrain.config.overrides import is_of_pipeline, parse_overrides
from bigtrain.config.saved import checked, escaped
from bigtrain.config.settings import setting
from bigtrain.config.strict import Origin, StrictTree, show
from bigtrain.errors import ConfigError, Problem, nearest

GROUP = "pipeline"
SPLITS = ("train", "val", "test")
CONTROL = "_control"
MAX_ROUNDS = 100

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


@dataclasses.dataclass
class Stage:
    """A named step of every round: a training, by its overrides, or an evaluation of one."""

    overrides: list[str] = setting([], "Words of the stage, as one would type them.")
    init_from: str | None = setting(None, "A stage above, or what init_from= takes: the weights to start from.")
    control: bool = setting(True, "Where it starts from a stage: train it from scratch, too, and say what was gained.")
    evaluate: str | None = setting(None, "The training stage that this one evaluates, instead of training.")
    split: list[str] = setting(["test"], "Splits that an evaluation is made on.", one_or_more=True)


@dataclasses.dataclass
class Until:
    """What ends the rounds."""

    metric: str | None = setting(None, "stage/split/metric, for instance finetune/val/accuracy.")
    target: float | None = setting(None, "The rounds end when the metric is as good as this.")


@dataclasses.dataclass
class Iterate:
    """How often the stages are gone through, and what changes from one round to the next.

    `continues` is written `continue`, which no field of Python's can be called.
    """

    until: Until = setting(Until, "What ends the rounds.")
    max_rounds: int = setting(1, "Rounds at most.", at_least=1, at_most=MAX_ROUNDS)
    patience: int | None = setting(None, "End after so many rounds in a row without a better metric.", at_least=1)
    continues: list[str] = setting(
        [], "Stages that go on from their own weights of the round before.", one_or_more=True
    )
    schedule: list[dict[str, list[str]]] = setting([], "Words for round 2, round 3, …, by stage.")


@dataclasses.dataclass
class Definition:
    """What stands in the YAML of a pipeline."""

    overrides: list[str] = setting([], "Words for every training stage, before its own.")
    stages: dict[str, Stage] = setting({}, "The steps of a round, in order, by name.")
    iterate: Iterate = setting(Iterate, "How often, and until when.")


_OF_A_STAGE = tuple(field.name for field in dataclasses.fields(Stage) if field.name != "overrides")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All that was asked for. Every training stage has the overrides `common` before its own, and `overrides` after
    them.
    """

    choice: str
    name: str
    output_dir: str
    source: str
    stages: dict[str, Stage]
    iterate: Iterate
    common: tuple[str, ...]
    overrides: tuple[str, ...]
    typed: dict[str, tuple[str, ...]]  # stage → the overrides that the command line adds to it, last
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
    """The pipeline that a request's overrides ask for. Raises ConfigError with everything that is wrong with it."""
    ours = [word.lstrip("+") for word in request.overrides if is_of_pipeline(word)]
    words = [word for word in request.overrides if not is_of_pipeline(word)]
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
    tree = _tree(content, source)
    typed = _apply(ours, tree)
    definition: Definition = checked(tree).pipeline
    stages, iterate = definition.stages, definition.iterate
    if problems := list(_conflicts(stages, iterate, source)):
        raise ConfigError(*dict.fromkeys(problems))
    own = {key: _last(words, key) for key in ("name", "output_dir")}
    return Pipeline(
        choice=chosen[0],
        name=own["name"] or chosen[0].replace("/", "-"),
        output_dir=own["output_dir"] or "outputs",
        source=source,
        stages=stages,
        iterate=iterate,
        common=tuple(definition.overrides),
        overrides=tuple(word for word in words if word.partition("=")[0] not in own),
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


def _tree(content: dict[str, Any], source: str) -> StrictTree:
    """The settings of the file. Sections and stages may be empty; references are text, for the settings of a stage."""
    given = {key: value for key, value in content.items() if value is not None}
    if isinstance(stages := given.get("stages"), dict):
        given["stages"] = {name: {} if entry is None else entry for name, entry in stages.items()}
    if isinstance(rounds := given.get("iterate"), dict):
        filled = {key: value for key, value in rounds.items() if (key, value) != ("until", None)}
        given["iterate"] = {"continues" if key == "continue" else key: value for key, value in filled.items()}
    tree = StrictTree.of(GROUP, Definition, "a pipeline")
    tree.assign({GROUP: escaped(given)}, Origin(file=source))
    if not tree.config[GROUP].stages and not tree.problems:
        tree.problems.append(Problem("CONFIG-PIPELINE", "a pipeline needs stages", source, "stages: {pretrain: …}"))
    for name in tree.config[GROUP].stages:
        if not _NAME.fullmatch(name) or name.endswith(CONTROL):
            fix = f"a stage has a name of a-z, 0-9 and _, not ending in {CONTROL}"
            tree.problems.append(_conflict(f"stages.{name}", "can't be called so", source, fix))
    return tree


def _apply(words: Sequence[str], tree: StrictTree) -> dict[str, tuple[str, ...]]:
    """Changes stages and rounds by `pipeline.…=` of the command line; returns overrides to add, by stage."""
    added: dict[str, tuple[str, ...]] = {}
    stages = list(tree.config[GROUP].stages)
    for word in words:
        key, _, value = word.partition("=")
        _, section, name, rest = (*key.split(".", 3), "", "", "")[:4]
        if section == "stages" and rest and name not in stages:
            near = did_you_mean([f"{GROUP}.stages.{option}.{rest}={value}" for option in nearest(name, stages)])
            fix = near or f"the stages are {', '.join(stages)}"
            problem = Problem("CONFIG-KEY", f"there is no stage {name}", f'command line, "{word}"', fix)
            tree.problems.append(problem)
        elif section == "stages" and rest and rest not in _OF_A_STAGE:
            added[name] = (*added.get(name, ()), f"{rest}={value}")
        elif section:
            overrides, problems = parse_overrides("train", [word])
            tree.problems += [settled(problem, lambda words: False) for problem in problems]
            if (section, name) == ("iterate", "continue"):
                key = f"{GROUP}.iterate.continues"
            for override in overrides:
                tree.apply(dataclasses.replace(override, key_or_group=key, _value=escaped(override.value())))
    return added


def _conflicts(stages: dict[str, Stage], iterate: Iterate, source: str) -> Iterable[Problem]:
    """What does not go together."""
    before: list[str] = []
    for name, stage in stages.items():
        where = f"stages.{name}"
        if stage.evaluate is not None:
            if stage.evaluate not in before or stages[stage.evaluate].evaluate is not None:
                fix = f"name a training stage above it: {', '.join(before) or 'there is none'}"
                yield _conflict(f"{where}.evaluate", f"is {stage.evaluate}", source, fix)
            if stage.init_from is not None:
                yield _conflict(where, "evaluates; it can't have an init_from", source)
            unknown = [split for split in stage.split if split not in SPLITS]
            if unknown or not stage.split:
                fix = f"allowed are {', '.join(SPLITS)}"
                yield _conflict(f"{where}.split", f"has {show(unknown)}", source, fix)
        elif stage.init_from in stages and (
            stage.init_from not in before or stages[stage.init_from].evaluate is not None
        ):
            fix = f"name a training stage above it: {', '.join(before) or 'there is none'}"
            yield _conflict(f"{where}.init_from", f"is {stage.init_from}", source, fix)
        if stage.evaluate is None:
            before.append(name)
    yield from _conflicts_of_rounds(stages, iterate, before, source)


def _conflicts_of_rounds(
    stages: dict[str, Stage], iterate: Iterate, training: list[str], source: str
) -> Iterable[Problem]:
    until = iterate.until
    if (until.metric is None) != (until.target is None) and iterate.patience is None:
        fix = "give both: until: {metric: finetune/val/accuracy, target: 0.9}"
        yield _conflict("iterate.until", "has only one of metric and target", source, fix)
    if iterate.patience is not None and until.metric is None:
        fix = "until: {metric: finetune/val/accuracy}"
        yield _conflict("iterate.patience", "needs a metric to watch", source, fix)
    if until.metric is not None:
        stage, _, rest = until.metric.partition("/")
        split, _, metric = rest.partition("/")
        if stage not in stages or split not in SPLITS or not metric:
            near = did_you_mean([f"{name}/{rest}" for name in nearest(stage, stages)]) if stage not in stages else ""
            fix = near or f"write stage/split/metric, of the stages {', '.join(stages)} and {', '.join(SPLITS)}"
            yield _conflict("iterate.until.metric", f"is {until.metric}", source, fix)
    for name in iterate.continues:
        if name not in training or stages[name].init_from in stages:
            fix = "name training stages that start from no other stage"
            yield _conflict("iterate.continue", f"has {name}", source, fix)
    for number, words in enumerate(iterate.schedule, start=2):
        for name in words:
            if name not in stages:
                fix = did_you_mean(nearest(name, stages)) or f"the stages are {', '.join(stages)}"
                yield _conflict("iterate.schedule", f"has {name} for round {number}", source, fix)
    if iterate.max_rounds > 1 + len(iterate.schedule) and not iterate.continues:
        planned = 1 + len(iterate.schedule)
        fix = "give a schedule for it, or let stages go on: continue: [pretrain]"
        sentence = f"is {iterate.max_rounds}, but round {planned + 1} would be as round {planned}"
        yield _conflict("iterate.max_rounds", sentence, source, fix)


def _conflict(key: str, sentence: str, source: str, fix: str = "") -> Problem:
    return Problem("CONFIG-PIPELINE", f"{key} {sentence}", source, fix, key=f"{GROUP}.{key}")


def _last(words: Iterable[str], key: str) -> str | None:
    """The value that a plain text setting is given last."""
    values = [word.partition("=")[2].strip("'\"") for word in words if word.partition("=")[0] == key]
    return values[-1] if values else None
