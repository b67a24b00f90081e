"""`-m sweep=optuna`: what is searched and how, read strictly off the overrides. Nothing is started here; no optuna.

    optimizer.learning_rate=interval(1e-4,1e-2)   a number between the two, both included
    model.num_layers=range(1,5)                   1, 2, 3 or 4, whose order means something
    model=cnn,resnet   model.dropout=choice(0,0.1)   one of these, whose order means nothing

An interval over a whole-number setting gives whole numbers. It is searched by its logarithm where it is above zero
and its ends are a factor of ten or more apart; `tag(linear, interval(…))`, `tag(log, …)`, `tag(int, …)` say otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bigtrain.config.hydra_adapter import IntervalSweep, Override
from bigtrain.config.library import Library, Request
from bigtrain.config.overrides import fields_named, is_hydra, is_search
from bigtrain.config.redact import redact_overrides
from bigtrain.config.saved import checked
from bigtrain.config.settings import setting
from bigtrain.config.strict import StrictTree
from bigtrain.config.yaml_files import MAX_DOCUMENT_BYTES, read_text
from bigtrain.errors import ConfigError, Problem
from bigtrain.sweep.axes import picked, values_of

FILE = "sweep.json"
"""In a sweep's directory: the overrides it was started with."""

_LOG_FROM = 10.0  # ends of an interval this factor apart are searched by their logarithm
_VERSION = 1
_TAGS = ("log", "linear", "int")
_MAY_CHANGE = ("sweep.trials", "sweep.n_jobs")


@dataclasses.dataclass
class OptunaSettings:
    """TPE (arXiv:2304.11127), and a pruner that stops what falls behind."""

    trials: int = setting(20, "Runs in all.", at_least=1)
    n_jobs: int = setting(1, "Trials that run at the same time.", at_least=1)
    metric: str | None = setting(
        None, "Metric of the validation split to make best; it chooses the best weights too. Default: the task's own."
    )
    pruner: str = setting(
        "median",
        "What stops a trial early: median (worse than half of the finished ones at the same evaluation), halving "
        "(successive halving, arXiv:1810.05934: of every four the best one goes on) or none.",
        choices=("median", "halving", "none"),
    )
    startup_trials: int = setting(
        10, "Trials drawn at random before the sampler learns; the median pruner waits for as many.", at_least=0
    )
    seed: int = setting(0, "Seed of what is drawn.", at_least=0)


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

    `words` are those to keep for going on, `fixed` those that all trials have; `resumed`: the sweep's directory.
    """

    settings: OptunaSettings
    space: tuple[Choices | Interval, ...]
    overrides: tuple[str, ...]
    fixed: tuple[str, ...]
    resumed: Path | None = None
    metric: str = ""  # "val/loss"
    higher_is_better: bool = False

    def swept(self, drawn: dict[str, Any]) -> dict[str, str]:
        """Values that were drawn, by key → overrides, by key as typed."""
        return {part.key: part.word(drawn[part.key.lstrip("+")]) for part in self.space}


def read_search(request: Request, overrides: list[Override]) -> Search:
    """The search that the overrides of a sweep ask for. Raises ConfigError with everything that is wrong with them."""
    settings, problems = _read_settings([override for override in overrides if is_search(override)])
    ours = [override for override in overrides if not is_search(override)]
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
    words = tuple(request.overrides)
    hidden = [word for word, shown in zip(words, redact_overrides(words), strict=True) if word != shown]
    if hidden:
        message = f"{hidden[0].partition('=')[0]} holds a secret, and a search keeps its words to go on later"
        problems.append(Problem("CONFIG-SWEEP", message, fix="let it come from the environment: '${oc.env:NAME}'"))
    if problems:
        raise ConfigError(*problems)
    return Search(settings, tuple(space), words, tuple(fixed))


def document_of(request: Request, search: Search) -> dict[str, Any]:
    """What sweep.json holds."""
    folder = None if request.config_dir is None else str(Path(request.config_dir).absolute())
    return {
        "version": _VERSION,
        "words": list(search.overrides),
        "config_name": request.config_name,
        "config_dir": folder,
        "plugins": list(request.plugins),
    }


def saved_request(request: Request, overrides: list[Override]) -> tuple[Request, Path]:
    """`-m resume=<sweep directory>`: what that sweep was asked for, with what may change, and its directory.

    Raises ConfigError where there is no such sweep, or the overrides ask for another one.
    """
    typed = {override.key_or_group: override for override in overrides}
    where = str(typed.pop("resume").value())
    output_dir = str(typed.pop("output_dir").value()) if "output_dir" in typed else "outputs"
    other = [override for key, override in typed.items() if key not in _MAY_CHANGE]
    if other:
        cause = f'command line, "{other[0].input_line}"'
        fix = f"leave it out, or start a new sweep; {' and '.join(_MAY_CHANGE)} may change"
        raise ConfigError.of("RESUME-CHANGE", "a sweep goes on with its own words", cause=cause, fix=fix)
    sweep_dir = _find_sweep(where, Path(output_dir))
    saved = _read(sweep_dir / FILE)
    if tuple(saved["plugins"]) != request.plugins:
        word = f"plugins=[{','.join(saved['plugins'])}]"
        fix = f"add {word}" if saved["plugins"] else "leave plugins= out"
        raise ConfigError.of("PLUGIN-MISSING", f"{sweep_dir} was started with {word}", fix=fix)
    words = [word for word in saved["words"] if word.partition("=")[0] not in typed]
    words += [str(override.input_line) for override in typed.values()]
    folder, name = saved["config_dir"], saved["config_name"]
    return dataclasses.replace(request, overrides=tuple(words), config_dir=folder, config_name=name), sweep_dir


def _find_sweep(where: str, output_dir: Path) -> Path:
    found = [path.parent for path in output_dir.glob(f"*/sweeps/*/{FILE}")]
    latest = max(found, key=lambda path: path.name, default=None)
    path = latest if where == "latest" else Path(where).expanduser()
    if path is not None and (path / FILE).is_file():
        return path
    cause = f"{output_dir} holds no sweep of sweep=optuna" if path is None else f"{path} has no {FILE}"
    fix = f"the newest sweep is {latest}" if latest else "a single run goes on without -m: bigtrain resume=…"
    message = f"resume={where}: there is no sweep to go on with"
    raise ConfigError.of("RESUME-MISSING", message, cause=cause, fix=fix)


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(read_text(path, MAX_DOCUMENT_BYTES))
        lists = [saved["words"], saved["plugins"]]
        names = [saved["config_dir"], saved["config_name"]]
        fine = saved["version"] == _VERSION and all(isinstance(item, list) for item in lists)
        fine = fine and all(isinstance(item, str) for row in lists for item in row)
        fine = fine and all(item is None or isinstance(item, str) for item in names)
    except (ValueError, KeyError, TypeError, RecursionError):
        fine = False
    if not fine:
        raise ConfigError.of("CONFIG-FILE", f"{path} is damaged", fix="start a new sweep; the runs in it are intact")
    checked: dict[str, Any] = saved
    return checked


def _read_settings(overrides: Iterable[Override]) -> tuple[OptunaSettings, list[Problem]]:
    tree = StrictTree.of("sweep", OptunaSettings, "a search")
    chosen = False
    for override in overrides:
        key, cause = override.key_or_group, f'command line, "{override.input_line}"'
        if override.is_sweep_override() or override.is_delete():
            tree.problems.append(Problem("CONFIG-SWEEP", f"{key} takes one value", cause, key=key))
        elif key != "sweep":
            tree.apply(override)
        elif not (chosen := override.value() == "optuna"):
            fix = "choices: optuna; without sweep= every combination is a run"
            tree.problems.append(Problem("CONFIG-SWEEP", f"sweep={override.value()} is not a choice", cause, fix))
    if not chosen and not tree.problems:
        tree.problems.append(Problem("CONFIG-SWEEP", "sweep.* goes with sweep=optuna", fix="add sweep=optuna"))
    try:
        return checked(tree).sweep, []
    except ConfigError as error:
        return OptunaSettings(), list(error.problems)


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
