"""`-m sweep=optuna`: what is searched and how, read strictly off the overrides. Nothing is started here; no optuna.

    optimizer.learning_rate=interval(1e-4,1e-2)   a number between the two, both included
    model.num_layers=range(1,5)                   1, 2, 3 or 4, whose order means something
    model=cnn,resnet   model.dropout=choice(0,0.1)   one of these, whose order means nothing

An interval over a whole-number setting gives whole numbers. It is searched by its logarithm where it is above zero
and its ends are a factor of ten or more apart; `tag(linear, interval(…))`, `tag(log, …)`, `tag(int, …)` say otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from bigtrain.config.hydra_adapter import IntervalSweep, Override
from bigtrain.config.library import Library, Request
from bigtrain.config.overrides import fields_named, is_hydra, is_sweep_setting
from bigtrain.config.redact import redact_overrides
from bigtrain.errors import ConfigError, Problem
from bigtrain.sweep.axes import picked, values_of
from bigtrain.sweep.saved import hidden_words
from bigtrain.sweep.settings import OptunaSettings, read_settings

_LOG_FROM = 10.0  # ends of an interval this factor apart are searched by their logarithm
_TAGS = ("log", "linear", "int")


@dataclasses.dataclass(frozen=True)
class Choices:
    """A few values, as overrides. `numbers`: the same as numbers, ascending, where their order means something."""

    key: str
    values: tuple[str, ...]
    numbers: tuple[float, ...] = ()

    def samples(self) -> tuple[str, ...]:
        """What is tried before the search: of numbers the ends."""
        return tuple(dict.fromkeys((self.values[0], self.values[-1]))) if self.numbers else self.values

    def word(self, value: Any) -> str:
        """The word for a value that was drawn: one of `numbers`, to rounding, or of `values`."""
        if not self.numbers:
            return str(value)
        return min(zip(self.numbers, self.values, strict=True), key=lambda pair: abs(pair[0] - float(value)))[1]

    def __str__(self) -> str:
        shown = [word.partition("=")[2] for word in redact_overrides(f"{self.key}={value}" for value in self.values)]
        return f"{self.key.lstrip('+')}: {', '.join(shown)}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """Every number from `low` to `high`."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    def samples(self) -> tuple[str, ...]:
        """What is tried before the search."""
        return self.word(self.low), self.word(self.high)

    def word(self, value: Any) -> str:
        """A number as it is typed: four digits are enough to search with, and read well."""
        if self.whole:
            return str(round(value))
        rounded = float(f"{value:.4g}")
        return repr(rounded if self.low <= rounded <= self.high else float(value))

    def __str__(self) -> str:
        how = "whole, " * self.whole + ("logarithmic" if self.log else "linear")
        return f"{self.key.lstrip('+')}: {self.word(self.low)} to {self.word(self.high)}, {how}"


@dataclasses.dataclass(frozen=True)
class Search:
    """What `sweep=optuna` asks for. `metric` and its direction are known once the settings are composed.

    `fixed` are the overrides that all trials have; `resumed`: the sweep's directory.
    """

    settings: OptunaSettings
    space: tuple[Choices | Interval, ...]
    fixed: tuple[str, ...]
    resumed: Path | None = None
    metric: str = ""  # "val/loss"
    higher_is_better: bool = False

    def swept(self, drawn: dict[str, Any]) -> dict[str, str]:
        """Values that were drawn, by key → overrides, by key as typed."""
        return {part.key: part.word(drawn[part.key.lstrip("+")]) for part in self.space}


def read_search(request: Request, overrides: list[Override]) -> Search:
    """The search that the overrides of a sweep ask for. Raises ConfigError with everything that is wrong with them."""
    settings, problems = read_settings([override for override in overrides if is_sweep_setting(override)])
    ours = [override for override in overrides if not is_sweep_setting(override)]
    library: Library | None = None
    space: list[Choices | Interval] = []
    for override in ours:
        if not override.is_sweep_override():
            continue
        if override.value_type.name == "GLOB_CHOICE_SWEEP":  # type: ignore[union-attr]
            library = library or Library(request, [item for item in ours if is_hydra(item)])
            override = dataclasses.replace(override, config_loader=None, _value=picked(override, library))
        try:
            space.append(_dimension(request.verb, override))
        except ConfigError as error:
            problems += error.problems
    if not space and not problems:
        fix = "for instance 'optimizer.learning_rate=interval(1e-4,1e-2)' or model=cnn,resnet"
        problems.append(Problem("CONFIG-SWEEP", "sweep=optuna is given nothing to search", fix=fix))
    fixed = [str(override.input_line) for override in ours if not override.is_sweep_override()]
    if settings.metric is not None:
        name = settings.metric.removeprefix("val/")
        given = [word for word in fixed if word.lstrip("+").startswith("trainer.early_stopping.metric=")]
        if given:
            fix = "give one of the two: they mean the same"
            message = "sweep.metric and trainer.early_stopping.metric are both given"
            problems.append(Problem("CONFIG-COMBINATION", message, fix=fix))
        fixed.append(f"trainer.early_stopping.metric={name}")
    problems += hidden_words(request)
    if problems:
        raise ConfigError(*problems)
    return Search(settings, tuple(space), tuple(fixed))


def _dimension(verb: str, override: Override) -> Choices | Interval:
    key, swept = override.get_key_element(), override.value()
    cause = f'command line, "{override.input_line}"'
    tags = set(getattr(swept, "tags", ()))
    interval = isinstance(swept, IntervalSweep)
    if wrong := sorted(tags - set(_TAGS) if interval else tags):
        fix = f"an interval takes the tags {', '.join(_TAGS)}; nothing else takes one"
        raise ConfigError.of("CONFIG-SWEEP", f"{key}: the tag {wrong[0]} has no meaning here", cause=cause, fix=fix)
    if isinstance(swept, IntervalSweep):
        hints = [hint for _, hint in fields_named(verb, override.key_or_group)]
        whole = "int" in tags or (bool(hints) and all(hint in (int, int | None) for hint in hints))
        return _interval(key, swept, whole, tags, cause)
    values = values_of(override)
    if override.is_range_sweep():
        ascending = sorted(values, key=float)
        return Choices(key, tuple(ascending), tuple(float(value) for value in ascending))
    return Choices(key, tuple(values))


def _interval(key: str, swept: IntervalSweep, whole: bool, tags: set[str], cause: str) -> Interval:
    def refused(message: str, fix: str) -> ConfigError:
        return ConfigError.of("CONFIG-SWEEP", f"{key}: {message}", cause=cause, fix=fix)

    assert swept.start is not None and swept.end is not None
    low, high = float(swept.start), float(swept.end)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise refused("the first end of an interval must be below the second", "for instance interval(1e-4,1e-2)")
    if whole and not (low.is_integer() and high.is_integer()):
        raise refused("it is a whole number, and an end of the interval is not", "for instance interval(1,8)")
    if "log" in tags and ("linear" in tags or low <= 0):
        why = "log and linear exclude each other" if "linear" in tags else "only numbers above zero have a logarithm"
        raise refused(why, "leave tag(log, …) out, or raise the lower end")
    log = "linear" not in tags and low > 0 and ("log" in tags or high / low >= _LOG_FROM)
    return Interval(key, low, high, whole, log)
