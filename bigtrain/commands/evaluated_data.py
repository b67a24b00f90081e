"""The data that `bigtrain eval` measures on, and how many of its samples stand in the run's training split.

The run's own data keeps the run's own splits, wherever it lies: what was held out of the training is measured. Other
data is compared with the training split, and the samples found there are counted.
"""

from __future__ import annotations

import dataclasses
import filecmp
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.build import build_data
from bigtrain.commands.loading import Loaded
from bigtrain.config.run import EvalConfig, EvalDataConfig, RunConfig
from bigtrain.data.audit.seen import Seen, seen_before, stretches_seen, why_not_compared, why_too_large
from bigtrain.data.base import DataModule
from bigtrain.errors import DataError, Problem


@dataclass(frozen=True)
class EvaluatedData:
    """`seen`: of the split's samples, those that the run was trained on. None of its own data, which its audit has
    compared, and of what could not be compared: `why_not_seen` says why.
    """

    data: DataModule
    split: str
    seen: Seen | None = None
    why_not_seen: str = ""

    def to_json(self) -> dict[str, Any] | None:
        """As eval.json has it; None of the run's own data."""
        if self.why_not_seen:
            return {"not_compared": self.why_not_seen}
        return self.seen and {"found": self.seen.found, "total": self.seen.total, "unit": self.seen.unit}


def evaluated_data(loaded: Loaded, config: EvalConfig) -> EvaluatedData:
    """The data that the settings mean. Raises DataError for what is missing, broken, or of another kind."""
    own_config = _with_settings(loaded, config)
    own_split = _split_of_own_file(loaded.config, config)
    if own_split:
        data = build_data(own_config, loaded.tokenizer)
        _require_same_kind(loaded, data)
        changed = data.spec.fingerprint != loaded.spec.fingerprint
        return EvaluatedData(data, _split(own_split, data), why_not_seen="it has changed since" if changed else "")
    assert config.data.path is not None
    own = training_data(loaded, own_config)
    may_be_own = isinstance(own, str) or _holds_the_same(loaded.config, config.data.path)
    try:
        data = _other_data(loaded, own_config, config.data.path, may_be_own)
    except DataError as error:
        raise DataError(*(_like_the_runs(problem, own_config) for problem in error.problems)) from error
    _require_same_kind(loaded, data)
    split = _split(config.split, data)
    if data.spec.fingerprint == loaded.spec.fingerprint:  # a copy, or moved here
        return EvaluatedData(data, split)
    reason = own if isinstance(own, str) else why_not_compared(data, own_config.data, own)
    if isinstance(own, str) or reason:
        return EvaluatedData(data, split, why_not_seen=reason)
    if data.spec.kind == "text":
        return EvaluatedData(data, split, stretches_seen(data, own_config.data, own, split))
    return EvaluatedData(data, split, next(iter(seen_before(data, own_config.data, own, [split])), None))


def training_data(loaded: Loaded, config: RunConfig | None = None) -> DataModule | str:
    """The data of the run, or a sentence on why it is not at hand. `config`: the run's, but for the cache folder."""
    config = config or loaded.config
    if config.trainer.limit_samples is not None or config.trainer.overfit:
        return "the run was one on a few samples (trainer.limit_samples, trainer.overfit)"
    if reason := why_too_large(loaded.spec):
        return reason
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training has said it
            data = build_data(config, loaded.tokenizer)
    except DataError as error:
        problem = error.problems[0]
        return f"{problem.message} ({problem.cause})" if problem.cause else problem.message
    return data if data.spec.fingerprint == loaded.spec.fingerprint else "it has changed since"


def _with_settings(loaded: Loaded, config: EvalConfig) -> RunConfig:
    """The run's settings with those given for `eval`, but for the path."""
    known = {field.name for field in dataclasses.fields(loaded.config.data)}
    given = {name: value for name, value in vars(config.data).items() if value is not None}
    if refused := sorted(set(given) - known):
        raise DataError.of(
            "EVAL-DATA",
            f"data.{refused[0]} is not a setting of the data that this checkpoint was trained on",
            fix="leave it out: this data needs no files of yours",
        )
    given.pop("path", None)
    return dataclasses.replace(loaded.config, data=dataclasses.replace(loaded.config.data, **given))


def _like_the_runs(problem: Problem, config: RunConfig) -> Problem:
    """The problem with another fix where it proposes data settings that `eval` takes from the checkpoint."""
    here = {field.name for field in dataclasses.fields(EvalDataConfig)}
    named = [name for name in re.findall(r"\bdata\.(\w+)", problem.fix) if hasattr(config.data, name)]
    if not set(named) - here:
        return problem
    values = {name: getattr(config.data, name) for name in named}
    settings = [f"data.{name} is {value!r}" for name, value in values.items() if value is not None]
    settings += ["it is UTF-8"] if "encoding" in values and values["encoding"] is None else []
    fix = ": ".join(
        filter(None, ("make it like the run's own files, whose settings come with the checkpoint", ", ".join(settings)))
    )
    return dataclasses.replace(problem, fix=fix)


def _split_of_own_file(run: RunConfig, config: EvalConfig) -> str:
    """The split to measure where `data.path` is a file or folder of the run itself, however it is spelled; else ""."""
    if config.data.path is None:
        return config.split
    for holds, own in run.data.files().items():
        if _is_same_place(own, config.data.path) and (holds == "all" or config.split in ("auto", holds)):
            return config.split if holds == "all" else holds
    return ""


def _is_same_place(one: str, other: str) -> bool:
    """Whether two paths lead to one file, folder or set of files: relative or absolute, through links."""
    try:
        places = [Path(path).expanduser() for path in (one, other)]
        return os.path.realpath(places[0]) == os.path.realpath(places[1]) or places[0].samefile(places[1])
    except (OSError, ValueError, RuntimeError):  # not there; a NUL inside; the home of an unknown user
        return one == other


def _holds_the_same(run: RunConfig, path: str) -> bool:
    """Whether a file is a copy of the one that the run has split into train, val and test."""
    divided = run.data.files().get("all", "")
    try:
        return filecmp.cmp(Path(divided).expanduser(), Path(path).expanduser(), shallow=False)
    except (OSError, ValueError, RuntimeError):
        return False


def _other_data(loaded: Loaded, config: RunConfig, path: str, may_be_own: bool) -> DataModule:
    """The data at `path`. `may_be_own`: it may be what the run was trained on, moved or copied."""
    whole, as_test_split = config.data.at(path), config.data.as_test_split(path)
    if as_test_split is not None and may_be_own:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = build_data(dataclasses.replace(config, data=whole), loaded.tokenizer)
            if data.spec.fingerprint == loaded.spec.fingerprint:
                return data
        except DataError:  # too few texts for three splits, say
            pass
    other = (as_test_split or whole).with_labels(loaded.spec.labels)  # in the order that the model knows
    return build_data(dataclasses.replace(config, data=other), loaded.tokenizer)


def _require_same_kind(loaded: Loaded, data: DataModule) -> None:
    spec, other = loaded.spec, data.spec
    if other.labels != spec.labels[: len(other.labels)]:
        raise DataError.of(
            "EVAL-DATA",
            "this data has other classes than the checkpoint",
            cause=f"it has {', '.join(other.labels[:20])}; the model knows {', '.join(spec.labels[:20])}",
            fix="evaluate on data with the classes that the model was trained on",
        )
    if (spec.kind, spec.vocab_size, spec.input_shape) != (other.kind, other.vocab_size, other.input_shape):
        raise DataError.of(
            "EVAL-DATA",
            "this data does not fit the checkpoint",
            cause=f"it gives {other.kind}, vocabulary {other.vocab_size}, shape {other.input_shape}; the model takes "
            f"{spec.kind}, vocabulary {spec.vocab_size}, shape {spec.input_shape}",
            fix="evaluate on data of the kind that the model was trained on",
        )


def _split(split: str, data: DataModule) -> str:
    if split == "auto":
        split = "test" if data.spec.sizes.get("test") else "val"
    if not data.spec.sizes.get(split):
        raise DataError.of(
            "EVAL-DATA",
            f"this data has no {split} split",
            fix=f"choose one of split={', '.join(name for name, size in data.spec.sizes.items() if size)}",
        )
    return split
