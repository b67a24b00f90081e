"""Checks across settings: combinations that can't work, refused before anything slow. No torch.

The range of a single setting stands beside the setting itself (settings.py); here is what needs two of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bigtrain.config.durations import Duration, parse_duration
from bigtrain.config.run import EvalConfig, GenerateConfig, RunConfig
from bigtrain.errors import Problem
from bigtrain.registry import DATA, MODELS, TASKS

Parts = Callable[[str], Mapping[str, str]]


def find_conflicts(config: Any, parts: Parts) -> list[Problem]:
    """Everything that can't go together; `parts(kind)` gives choice → registered part, for the advice."""
    if isinstance(config, RunConfig):
        found = [
            *_kinds(config, parts),
            *_lengths(config),
            *_durations(config),
            *_ranks(config),
            *_names(config),
        ]
    else:
        found = list(_checkpoint(config))
    return found


def _kinds(config: RunConfig, parts: Parts) -> Iterator[Problem]:
    """Data provides one kind of sample, which the model and the task must be able to read."""
    sample = config.data.provides
    suits_model = sample in config.model.consumes
    suits_task = sample in config.task.consumes
    if suits_model and suits_task:
        return
    consumed = [kind for kind in config.model.consumes if kind in config.task.consumes]
    readers = [word for word, suits in (("the model", suits_model), ("the task", suits_task)) if not suits]
    reads = config.model.consumes if not suits_model else config.task.consumes
    message = f"the data gives {sample}, but {' and '.join(readers)} can only use {', '.join(reads)}"
    data = [
        f"data={choice}"
        for choice, part in parts("data").items()
        if part in DATA and DATA[part].config_class.provides in (consumed or config.model.consumes)  # type: ignore[attr-defined]
    ]
    tasks = [
        f"task={choice}"
        for choice, part in parts("task").items()
        if part in TASKS and set(TASKS[part].config_class.consumes) & set(config.model.consumes)  # type: ignore[attr-defined]
    ]
    models = [
        f"model={choice}"
        for choice, part in parts("model").items()
        if part in MODELS and sample in MODELS[part].config_class.consumes  # type: ignore[attr-defined]
    ]
    fixes = ["models that suit the data: " + ", ".join(models)] if models and not suits_model else []
    fixes += ["data that suits: " + ", ".join(data)] if data else []
    if not consumed or suits_model:
        fixes += ["tasks that suit the model: " + ", ".join(tasks)] if tasks else []
    yield Problem("CONFIG-COMBINATION", message, fix="; ".join(fixes))


def _lengths(config: RunConfig) -> Iterator[Problem]:
    asked = getattr(config.data, "sequence_length", None)
    longest = getattr(config.model, "max_length", None)
    if asked and longest and asked > longest:
        yield Problem(
            "CONFIG-COMBINATION",
            f"data.sequence_length is {asked}, but model.max_length is {longest}",
            fix=f"model.max_length={asked}, or data.sequence_length={longest}",
        )


def _durations(config: RunConfig) -> Iterator[Problem]:
    work = "use step, epoch, sample or tok"
    total = _parse(config.trainer.max_duration)
    warmup = getattr(config.scheduler, "warmup", None)
    if total and total.seconds is not None and config.scheduler.needs_total_steps:
        yield Problem(
            "CONFIG-COMBINATION",
            f"trainer.max_duration is a time, {config.trainer.max_duration}, but the schedule needs steps",
            fix=f"{work}; or scheduler=constant; to stop after a time, use trainer.time_limit",
        )
    if total and total.amount == 0:
        yield Problem("CONFIG-VALUE", "trainer.max_duration is 0; there is nothing to train", fix="make it longer")
    if warmup and (length := _parse(warmup)) and length.seconds is not None:
        yield Problem("CONFIG-VALUE", f"scheduler.warmup is the time {warmup}", fix=f"{work}")
    for name in ("eval_every", "save_every"):
        every = getattr(config.trainer, name)
        if every is not None and (length := _parse(every)) and length.amount == 0:
            yield Problem(
                "CONFIG-VALUE",
                f"trainer.{name} is {every}",
                fix="make it longer, or null for only at the end",
            )
    limit = config.trainer.time_limit
    if limit is not None and (length := _parse(limit)) and not length.seconds:
        yield Problem("CONFIG-VALUE", f"trainer.time_limit is {limit}", fix="give a time: 90s, 30min, 2h")


def _ranks(config: RunConfig) -> Iterator[Problem]:
    trainer = config.trainer
    ranks = max(1, int(trainer.gpus) if trainer.gpus.isdigit() and int(trainer.gpus) else trainer.processes)
    together = ranks * (trainer.micro_batch_size or 1)
    if trainer.batch_size % together and ranks > 1:
        each = f" times micro_batch_size={trainer.micro_batch_size}" if trainer.micro_batch_size else ""
        yield Problem(
            "CONFIG-COMBINATION",
            f"trainer.batch_size is {trainer.batch_size}, which {ranks} ranks{each} does not divide",
            fix=f"make it a multiple of {together}",
        )
    if trainer.max_restarts and ranks == 1 and trainer.gpus != "auto":
        yield Problem(
            "CONFIG-COMBINATION",
            f"trainer.max_restarts is {trainer.max_restarts}, which has no effect on a single process",
            fix="leave it out, or train in several: trainer.processes=2",
        )
    timeout = _parse(trainer.rank_timeout)
    if timeout and not timeout.seconds:
        yield Problem("CONFIG-VALUE", f"trainer.rank_timeout is {trainer.rank_timeout}", fix="give a time: 90s, 10min")
    if trainer.early_stopping.patience is not None and trainer.eval_every is None:
        yield Problem(
            "CONFIG-COMBINATION",
            "trainer.early_stopping.patience is set, but trainer.eval_every=null evaluates only at the end",
            fix="give trainer.eval_every, or leave patience out",
        )


def _names(config: RunConfig) -> Iterator[Problem]:
    if not re.fullmatch(r"\w[\w.+-]{0,99}", config.name):
        allowed = "one folder name of letters, digits and . _ + -, at most 100 characters"
        yield Problem("CONFIG-VALUE", f"name is {config.name!r}", fix=f"it must be {allowed}")
    if config.resume is not None:
        yield Problem(
            "CONFIG-VALUE",
            "resume stands in a file",
            fix=f"give it on the command line: resume={config.resume}",
        )


def _checkpoint(config: EvalConfig | GenerateConfig) -> Iterator[Problem]:
    verb = "eval" if isinstance(config, EvalConfig) else "generate"
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        yield Problem(
            "CONFIG-VALUE",
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but bigtrain {verb} is one process",
            "the environment, set by a launcher such as torchrun",
            "start it without the launcher",
        )
    if not config.checkpoint:
        yield Problem(
            "CONFIG-VALUE",
            f"bigtrain {verb} needs a checkpoint",
            fix=f"bigtrain {verb} checkpoint=outputs/<name>/<run>",
        )


def _parse(text: str) -> Duration | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None  # find_problems says so
