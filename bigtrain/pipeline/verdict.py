"""What a pipeline has shown, in sentences: what pretraining gained, how the rounds went and why they ended, whether its
trainings overfit, what their data audits found, what it all cost.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from bigtrain.config.watched import smaller_is_better
from bigtrain.data.audit.findings import Report
from bigtrain.pipeline.definition import Pipeline
from bigtrain.pipeline.store import Outcome
from bigtrain.report.overfit import overfit_verdict
from bigtrain.tracking.formatting import clock, number, scaled
from bigtrain.tracking.jsonl import read_rows


@dataclass(frozen=True)
class Gain:
    """A stage that started from other weights against the same one from scratch, by one metric of one split."""

    round: int
    stage: str
    metric: str  # "test/accuracy"
    started: float
    scratch: float
    higher_is_better: bool

    @property
    def gain(self) -> float:
        """By how much it is better; below 0, worse."""
        difference = self.started - self.scratch
        return difference if self.higher_is_better else -difference

    def __str__(self) -> str:
        gained = number(self.gain) if self.gain > 0 else "nothing"
        values = f"{number(self.started)} against {number(self.scratch)} from scratch"
        return f"{self.stage}, {self.metric}: the pretrained weights gained {gained}: {values} (one seed)"


@dataclass(frozen=True)
class Progress:
    """Where the rounds are: the watched metric of each, and why there is no further one, or ""."""

    values: list[float]
    best_round: int | None
    reason: str


def gains_of(rounds: list[list[Outcome]]) -> list[Gain]:
    """Of every stage with a control, by the metric that chose its weights, on each split that both were measured on."""
    found = []
    for number_of_round, outcomes in enumerate(rounds, start=1):
        by_stage = {outcome.step.stage: outcome for outcome in outcomes}
        for control in outcomes:
            if control.step.control_of is None:
                continue
            started = by_stage.get(control.step.control_of.stage)
            if started is None:
                continue
            name = started.best_metric.partition("/")[2]
            for tag in (f"{split}/{name}" for split in ("val", "test")):
                if tag in started.metrics and tag in control.metrics:
                    pair = started.metrics[tag], control.metrics[tag]
                    found.append(Gain(number_of_round, started.step.stage, tag, *pair, started.higher_is_better))
    return found


def progress_of(pipeline: Pipeline, rounds: list[list[Outcome]]) -> Progress:
    """Whether a further round is due, from the rounds that have ended."""
    iterate, watched = pipeline.iterate, pipeline.iterate.until.metric
    values = [watched_value(watched, outcomes) for outcomes in rounds] if watched else []
    higher = watched is not None and not smaller_is_better(watched.rpartition("/")[2])
    best: int | None = None
    for index, value in enumerate(values):
        if not math.isnan(value) and (best is None or (value > values[best] if higher else value < values[best])):
            best = index
    best_round = None if best is None else best + 1
    reason = ""
    target = iterate.until.target
    if values and target is not None and (values[-1] >= target if higher else values[-1] <= target):
        reason = f"the target is reached: {watched} is {number(values[-1])}, asked for {number(target)}"
    elif iterate.patience is not None and best_round is not None and len(rounds) - best_round >= iterate.patience:
        reason = f"patience: {watched} has not become better since round {best_round}"
    elif len(rounds) >= iterate.max_rounds:
        reason = f"all {len(rounds)} rounds are done" if len(rounds) > 1 else ""
        if target is not None and values:
            missed = f"the target is not reached: {watched} is {number(values[-1])}, asked for {number(target)}"
            reason = f"{reason}; {missed}" if reason else missed
    return Progress(values, best_round, reason)


def watched_value(watched: str, outcomes: list[Outcome]) -> float:
    """The value of stage/split/metric in a round; nan where it was not measured."""
    stage, tag = watched.split("/", 1)
    found = [outcome.metrics[tag] for outcome in outcomes if outcome.step.stage == stage and tag in outcome.metrics]
    return found[-1] if found else math.nan


def sentences(pipeline: Pipeline, rounds: list[list[Outcome]], notes: list[str]) -> list[str]:
    """The verdict."""
    progress = progress_of(pipeline, rounds)
    found = [str(gain) for gain in gains_of(rounds[-1:])]
    if len(progress.values) > 1:
        steps = " → ".join(number(value) for value in progress.values)
        found.append(f"{pipeline.iterate.until.metric} by round: {steps} (best: round {progress.best_round})")
    if progress.reason:
        found.append(progress.reason)
    found += [sentence for outcome in rounds[-1] for sentence in (*fit_of(outcome), *leaks_of(outcome))]
    costs = total_cost([outcome for outcomes in rounds for outcome in outcomes])
    if costs:
        found.append(costs)
    return [*found, *notes]


def fit_of(outcome: Outcome) -> list[str]:
    """Whether a training overfits, and what could be done about it; nothing to say of a control or an evaluation."""
    if not outcome.step.trains or outcome.step.control_of is not None:
        return []
    verdict = overfit_verdict(read_rows(outcome.place / "metrics.jsonl"), outcome.step.composed.config)
    return [f"{outcome.step.stage}: {verdict}"]


def leaks_of(outcome: Outcome) -> list[str]:
    """What the audit before a training has found in its data, and what an earlier stage has seen of it.

    Nothing to say of a control, or where there was no audit.
    """
    if outcome.step.control_of is not None:
        return []
    stage, found = outcome.step.stage, []
    if (file := outcome.place / "audit.json").is_file():
        audit = Report.from_json(json.loads(file.read_text()))
        said = "; ".join(audit.in_short()) or "no sample of val or test stands in train"
        found.append(f"{stage}, data: {said}")
    return found + [f"{stage}, data: {sentence}" for sentence in outcome.seen]


def total_cost(outcomes: list[Outcome]) -> str:
    """Time, tokens and FLOPs of all different trainings; how much of it was reused."""
    different: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.cost:
            different.setdefault(outcome.key, outcome)
    if not different:
        return ""
    total = dict.fromkeys(("seconds", "samples", "tokens", "flops"), 0.0)
    for outcome in different.values():
        for name in total:
            total[name] += outcome.cost.get(name, 0.0)
    words = [f"{clock(total['seconds'])} of training", scaled(total["samples"], "samples")]
    if total["tokens"]:
        words.append(scaled(total["tokens"], "tokens"))
    words.append(scaled(total["flops"], "FLOP"))
    reused = sum(outcome.how == "reused" for outcome in different.values())
    also = f" ({reused} of {len(different)} trainings were there already)" if reused else ""
    return f"cost: {', '.join(words)}{also}"
