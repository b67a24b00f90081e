"""A pipeline → every step of every round, composed and cross-checked before the first one starts. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bigtrain.config.compose import Composed, Composition, compose, validate
from bigtrain.config.library import Request
from bigtrain.config.saved import flatten
from bigtrain.config.strict import show
from bigtrain.errors import ConfigError, Problem, nearest
from bigtrain.pipeline.definition import CONTROL, Pipeline
from bigtrain.registry import MODELS, TASKS


@dataclass(frozen=True)
class Step:
    """A stage in a round: a training, or the evaluation of the one before it that `parent` names.

    `words` are those of the command, but for what earlier steps bring. `parent` is the step whose weights it starts
    from; of a control, whose tokens it reads. `start` is an init_from= that is no stage.
    """

    round: int
    stage: str
    overrides: tuple[str, ...]
    composed: Composed
    parent: Step | None = None
    start: str | None = None
    control_of: Step | None = None
    split: str = ""  # of an evaluation

    @property
    def trains(self) -> bool:
        """Whether it is a training."""
        return self.composed.verb == "train"

    @property
    def label(self) -> str:
        """pretrain; measure on test."""
        return f"{self.stage} on {self.split}" if self.split else self.stage


@dataclass
class Plan:
    """The steps of every round, in order, and what is to be said about them."""

    pipeline: Pipeline
    rounds: list[list[Step]]
    notes: list[str] = field(default_factory=list)
    _known: dict[Request, Composed] = field(default_factory=dict)

    def composed(self, verb: str, words: Sequence[str]) -> Composed:
        """The validated settings of a step; of the same overrides, those that are known. Raises ConfigError."""
        request = request_of(self.pipeline, verb, words)
        if request not in self._known:
            self._known[request] = validate(compose(request))
        return self._known[request]


def make_plan(pipeline: Pipeline) -> Plan:
    """Composes everything. Raises ConfigError with what is wrong with any step, naming stage and round."""
    plan = Plan(pipeline, [])
    problems: list[Problem] = []
    before: dict[str, Step] = {}
    for number in range(1, pipeline.iterate.max_rounds + 1):
        steps: dict[str, Step] = {}
        for name, stage in pipeline.stages.items():
            try:
                if stage.evaluate is not None:
                    if stage.evaluate in steps:
                        for split in stage.split:
                            step = _evaluation(plan, number, name, split, steps[stage.evaluate])
                            steps[f"{name} on {split}"] = step
                    continue
                steps[name] = _training(plan, number, name, steps, before.get(name))
                if (control := _control(plan, steps[name])) is not None:
                    steps[control.stage] = control
            except ConfigError as error:
                where = f"stage {name}" + (f", round {number}" if number > 1 else "")
                problems += [_naming(problem, where) for problem in error.problems]
        plan.rounds.append(list(steps.values()))
        before = steps
        if problems:
            raise ConfigError(*dict.fromkeys(problems))
    _check_metric(plan)
    return plan


def _words_of(pipeline: Pipeline, number: int, name: str) -> tuple[str, ...]:
    """Of a stage in a round, weakest first: the file's for all, its own, those typed for all, the schedule's, those
    typed for it.

    A round that the schedule no longer reaches is as the last one that it did.
    """
    schedule = pipeline.iterate.schedule[: number - 1]
    scheduled = next((words[name] for words in reversed(schedule) if name in words), [])
    return (
        *pipeline.common,
        *pipeline.stages[name].overrides,
        *pipeline.overrides,
        *scheduled,
        *pipeline.typed.get(name, ()),
    )


def _training(plan: Plan, number: int, name: str, steps: dict[str, Step], last: Step | None) -> Step:
    pipeline = plan.pipeline
    stage, parent_name = pipeline.stages[name], pipeline.parent(name)
    words = _words_of(pipeline, number, name)
    given = [word for word in words if word.startswith("init_from=")]
    if given:
        fix = f"pipeline.stages.{name}.init_from=… for one stage"
        raise ConfigError.of("CONFIG-PIPELINE", "init_from= is no word for a stage", cause=given[0], fix=fix)
    start = stage.init_from if parent_name is None else None
    composed = plan.composed("train", (*words, *([f"init_from={start}"] if start else [])))
    start = str(composed.config.init_from) if start else None
    parent = steps.get(parent_name) if parent_name else None
    if parent is not None and (other := _other_sizes(parent.composed, composed)):
        fix = f"give both stages the same model: {', '.join(other)}"
        message = f"it starts from {parent.stage}, whose model is another"
        raise ConfigError.of("CONFIG-PIPELINE", message, cause="; ".join(other.values()), fix=fix)
    if last is not None and name in pipeline.iterate.continues:
        other = _other_sizes(last.composed, composed)
        if not other:
            parent, start = last, None
        else:
            change = "; ".join(other.values())
            plan.notes.append(f"round {number}: {name} starts afresh, as its model is another: {change}")
    return Step(number, name, words, composed, parent, start)


def _control(plan: Plan, step: Step) -> Step | None:
    """The same training from scratch; None where there is nothing to compare.

    A stage that goes on from its own last round has none: its control is that of another budget.
    """
    stage = plan.pipeline.stages[step.stage]
    begins = step.start is not None or plan.pipeline.parent(step.stage) is not None
    if not stage.control or not begins:
        return None
    words = step.overrides
    if step.start is not None:  # a folder may bring the sizes of the model, which the control is to have, too
        sizes = flatten(step.composed.document["model"])
        words += tuple(f"model.{key}={_word_value(value)}" for key, value in sizes.items())
    composed = plan.composed("train", words)
    return Step(step.round, step.stage + CONTROL, words, composed, step.parent, step.start, control_of=step)


def _evaluation(plan: Plan, number: int, name: str, split: str, trained: Step) -> Step:
    words = (*plan.pipeline.stages[name].overrides, *plan.pipeline.typed.get(name, ()), f"split={split}")
    composed = plan.composed("eval", (*words, "checkpoint=to_come"))
    return Step(number, name, words, composed, trained, split=split)


def request_of(pipeline: Pipeline, verb: str, words: Sequence[str]) -> Request:
    """What to compose for a step."""
    stages, rounds = pipeline.stages.values(), pipeline.iterate.schedule
    lists = [
        pipeline.common,
        *(stage.overrides for stage in stages),
        *(own for words in rounds for own in words.values()),
    ]
    from_file = frozenset(word for words in lists for word in words)
    return dataclasses.replace(pipeline.request, verb=verb, overrides=tuple(words), from_file=from_file)


def _word_value(value: Any) -> str:
    return show(value).replace(" ", "")


def _other_sizes(first: Composed, second: Composed) -> dict[str, str]:
    """Settings of the models that give their tensors other shapes or meanings: key → "model.num_layers: 2 → 4".

    Numbers with a point (dropout, scales) are settings of the training.
    """
    kinds = [MODELS.entry_of(composed.config.model).name for composed in (first, second)]
    if kinds[0] != kinds[1]:
        return {"model": f"model: {kinds[0]} → {kinds[1]}"}
    before, after = (flatten(composed.document["model"]) for composed in (first, second))
    sized = {key for key in before if isinstance(before[key], (int, list)) or isinstance(after.get(key), (int, list))}
    return {
        f"model.{key}": f"model.{key}: {show(before[key])} → {show(after.get(key))}"
        for key in before
        if key in sized and before[key] != after.get(key)
    }


def _check_metric(plan: Plan) -> None:
    """Raises ConfigError for a metric to watch that the stage's task does not measure."""
    watched = plan.pipeline.iterate.until.metric
    if watched is None:
        return
    stage, split, metric = watched.split("/", 2)
    step = next(step for step in plan.rounds[0] if step.stage == stage)
    trained = step if step.trains else step.parent
    assert trained is not None
    if step.trains and split == "train" or step.split and split not in plan.pipeline.stages[stage].split:
        measured = "val and test" if step.trains else ", ".join(plan.pipeline.stages[stage].split)
        message = f"pipeline.iterate.until.metric is {watched}: that stage is measured on {measured}"
        raise ConfigError.of("CONFIG-PIPELINE", message, cause=plan.pipeline.source)
    known = type(trained.composed.config.task).measures
    if known and metric not in known:
        near = nearest(metric, known)
        fix = f"did you mean {stage}/{split}/{near[0]} ?" if near else f"choose one of {', '.join(known)}"
        task = TASKS.entry_of(trained.composed.config.task).name
        message = f"pipeline.iterate.until.metric is {watched}, but {task} does not measure {metric}"
        raise ConfigError.of("CONFIG-PIPELINE", message, cause=plan.pipeline.source, fix=fix)


def _naming(problem: Problem, where: str) -> Problem:
    return dataclasses.replace(problem, cause=f"{where}: {problem.cause}" if problem.cause else where)


def displayed(pipeline: Pipeline) -> Iterator[tuple[str, Composition]]:
    """For --cfg: a heading for each stage of the first round that trains, and what it is made of."""
    for name in pipeline.training:
        words = (*_words_of(pipeline, 1, name), f"name={name}")
        yield f"---\n# stage {name}\n", compose(request_of(pipeline, "train", words))
