"""Checks across settings: combinations that can't work, refused before anything slow. No torch.

The range of a single setting stands beside the setting itself (settings.py); here is what needs two of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bigtrain.config.durations import Duration, parse_duration
from bigtrain.config.hints import Guess
from bigtrain.config.run import CompareConfig, EvalConfig, ExportConfig, GenerateConfig, RunConfig
from bigtrain.errors import Problem
from bigtrain.registry import DATA, MODELS, TASKS, Registry

Parts = Callable[[str], Mapping[str, str]]


def find_conflicts(config: Any, parts: Parts, verb: str = "train") -> list[Problem]:
    """Everything that can't go together; `parts(kind)` gives choice → registered part, for the advice."""
    if verb == "check-data":  # whatever model and task the data may be for
        found = list(_names(config))
    elif isinstance(config, CompareConfig):
        found = []  # what its paths are, the command finds out
    elif isinstance(config, RunConfig):
        found = [
            *_kinds(config, parts),
            *_lengths(config),
            *_documents(config),
            *_durations(config),
            *_ranks(config),
            *_names(config),
        ]
    else:
        found = list(_checkpoint(config, verb))
    return found


def _kinds(config: RunConfig, parts: Parts) -> Iterator[Problem]:
    """Data, model and task go together: what the data gives, the others read; what the task needs, the model gives."""
    chosen = {"data": config.data, "model": config.model, "task": config.task}
    if _fit(**chosen):
        return
    every = {kind: _choices(kind, registry, parts) for kind, registry in _KINDS.items()}
    tasks = every["task"].values()
    advice = {kind: [name for name in every[kind] if _fit(**chosen | {kind: every[kind][name]})] for kind in every}
    start = ""
    if not any(advice.values()):
        start = "two of the three have to change; "
        advice = {
            "model": [name for name, part in every["model"].items() if any(_fit(config.data, part, t) for t in tasks)],
            "task": [
                name
                for name, part in every["task"].items()
                if any(_fit(data, config.model, part) for data in every["data"].values())
            ],
        }
    fixes = [f"{_ADVICE[kind]}: {', '.join(names)}" for kind, names in advice.items() if names]
    fix = start + "; ".join(fixes)
    # Most models bring a task of their own, so that one override may mend both: where it does, it comes first.
    models = [
        (name,) for name in every["model"] if any(_fit(config.data, every["model"][name], task) for task in tasks)
    ]
    yield Guess("CONFIG-COMBINATION", _misfit(**chosen), fix=fix, rounds=(tuple(models),), after=fix)


_KINDS = {"model": MODELS, "data": DATA, "task": TASKS}
_ADVICE = {"model": "models that suit the data", "data": "data that suits", "task": "tasks that suit the model"}
_FEATURES = {
    "causal": "a vector per token that has seen only the tokens up to it",
    "bidirectional": "a vector per token that has seen the whole text",
    "pooled": "a vector per sample",
    "decoder": "an encoder and a decoder",
}


def _fit(data: Any, model: Any, task: Any) -> bool:
    return _reads(model, data) and _reads(task, data) and _serves(model, task)


def _misfit(data: Any, model: Any, task: Any) -> str:
    """What keeps them from going together."""
    readers = {word: part for word, part in (("the model", model), ("the task", task)) if not _reads(part, data)}
    if not readers:
        return f"the task needs {_FEATURES[task.needs]}, which this model does not give"
    word, first = next(iter(readers.items()))
    if data.provides in first.consumes:
        return f"the data gives {data.provides} with {data.target}, but the task needs {task.target}"
    both = [kind for kind in first.consumes if all(kind in part.consumes for part in readers.values())]
    words, reads = (" and ".join(readers), both) if both else (word, first.consumes)
    return f"the data gives {data.provides}, but {words} can only use {', '.join(reads)}"


def _reads(part: Any, data: Any) -> bool:
    """Whether a model or a task can use what the data provides."""
    return data.provides in part.consumes and (not part.target or data.target in (part.target, ""))


def _serves(model: Any, task: Any) -> bool:
    """Whether a model gives what a task needs."""
    return not task.needs or task.needs in model.gives()


def _choices(kind: str, registry: Registry, parts: Parts) -> dict[str, Any]:
    """`kind=choice` → settings of the part that it chooses, as they are by default."""
    return {
        f"{kind}={choice}": registry[part].config_class() for choice, part in parts(kind).items() if part in registry
    }


def _lengths(config: RunConfig) -> Iterator[Problem]:
    asked, longest = config.data.sequence_length, config.model.max_length
    if asked and longest and asked > longest:
        fix = f"data.sequence_length={longest}"
        fix = (
            f"{fix}: positions come with the weights of init_from"
            if config.init_from
            else f"model.max_length={asked}, or {fix}"
        )
        yield _conflict("data.sequence_length", f"is {asked}, but model.max_length is {longest}", fix)


def _documents(config: RunConfig) -> Iterator[Problem]:
    if not config.data.attend_across_documents and not (config.model.masks_documents and config.task.needs == "causal"):
        sentence = "is false, but only a transformer that models language can keep documents of a window apart"
        fix = "leave it out, or choose model=transformer task=language_modeling"
        yield _conflict("data.attend_across_documents", sentence, fix)


def _durations(config: RunConfig) -> Iterator[Problem]:
    work, cadences = "use step, epoch, sample or tok", ("eval_every", "save_every")
    total = _parse(config.trainer.max_duration)
    warmup = config.scheduler.warmup
    if total and total.seconds is not None and config.scheduler.needs_total_steps:
        yield _conflict(
            "trainer.max_duration",
            f"is a time, {config.trainer.max_duration}, but the schedule needs steps",
            f"{work}; or scheduler=constant; to stop after a time, use trainer.time_limit",
        )
    if config.data.provides in ("images", "vectors"):
        lengths = {f"trainer.{name}": getattr(config.trainer, name) for name in ("max_duration", *cadences)}
        for key, text in {**lengths, "scheduler.warmup": warmup}.items():
            if text and (length := _parse(text)) and length.unit == "token":
                yield _invalid(key, f"is {text}, but this data has no tokens", "use step, epoch or sample")
    if total and total.amount == 0:
        yield _invalid("trainer.max_duration", "is 0; there is nothing to train", "make it longer")
    if warmup and (length := _parse(warmup)):
        if length.seconds is not None:
            yield _invalid("scheduler.warmup", f"is the time {warmup}", f"{work}, or a share: 5%")
        elif length.unit == "share" and length.amount and total and total.seconds is not None:
            sentence = f"is {warmup} of {config.trainer.max_duration}, a time, but it needs steps"
            yield _conflict("scheduler.warmup", sentence, f"{work} for one of the two")
    for name in cadences:
        every = getattr(config.trainer, name)
        if every is not None and (length := _parse(every)) and length.amount == 0:
            yield _invalid(f"trainer.{name}", f"is {every}", "make it longer, or null for only at the end")


def _ranks(config: RunConfig) -> Iterator[Problem]:
    trainer = config.trainer
    ranks = max(1, int(trainer.gpus) if trainer.gpus.isdigit() and int(trainer.gpus) else trainer.processes)
    shares = max(1, ranks // trainer.tensor_parallel)  # ranks that compute each block together read the same samples
    together = shares * (trainer.fixed_micro_batch_size or 1)
    if trainer.batch_size % together and ranks > 1:
        each = f" times micro_batch_size={trainer.micro_batch_size}" if trainer.fixed_micro_batch_size else ""
        who = f"{ranks} ranks" if shares == ranks else f"{shares} groups of ranks"
        sentence = f"is {trainer.batch_size}, which {who}{each} does not divide"
        yield _conflict("trainer.batch_size", sentence, f"make it a multiple of {together}")
    if trainer.max_restarts and ranks == 1 and trainer.gpus != "auto":
        sentence = f"is {trainer.max_restarts}, which has no effect on a single process"
        yield _conflict("trainer.max_restarts", sentence, "leave it out, or train in several: trainer.processes=2")
    if trainer.early_stopping.patience is not None and trainer.eval_every is None:
        sentence = "is set, but trainer.eval_every=null evaluates only at the end"
        fix = "give trainer.eval_every, or leave patience out"
        yield _conflict("trainer.early_stopping.patience", sentence, fix)


def _names(config: RunConfig) -> Iterator[Problem]:
    if not re.fullmatch(r"\w[\w.+-]{0,99}", config.name):
        fix = "it must be one folder name of letters, digits and . _ + -, at most 100 characters"
        yield _invalid("name", f"is {config.name!r}", fix)
    if config.resume is not None:
        yield _invalid("resume", "stands in a file", f"give it on the command line: resume={config.resume}")


def _invalid(key: str, sentence: str, fix: str) -> Problem:
    return Problem("CONFIG-VALUE", f"{key} {sentence}", fix=fix, key=key)


def _conflict(key: str, sentence: str, fix: str) -> Problem:
    return Problem("CONFIG-COMBINATION", f"{key} {sentence}", fix=fix, key=key)


def _checkpoint(config: EvalConfig | GenerateConfig | ExportConfig, verb: str) -> Iterator[Problem]:
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        message = f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but bigtrain {verb} is one process"
        cause = "the environment, set by a launcher such as torchrun"
        yield Problem("CONFIG-VALUE", message, cause, "start it without the launcher")
    if not config.checkpoint:
        fix = f"bigtrain {verb} checkpoint=outputs/<name>/<run>"
        yield Problem("CONFIG-VALUE", f"bigtrain {verb} needs a checkpoint", fix=fix)
    if isinstance(config, ExportConfig) and not config.path:
        fix = "give it one that is not there yet: path=…"
        yield Problem("CONFIG-VALUE", "bigtrain export needs a folder to write", fix=fix)


def _parse(text: str) -> Duration | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None  # find_problems reports it
