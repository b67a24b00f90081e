"""`-m sweep=scaling`: a grid of sizes and lengths of training, each run with a schedule of its own length, and what a
grid must hold so that L(N, D) can be fitted to it. The law itself: scaling_law.py.

    model.hidden_size=32,64,128 trainer.max_duration=500step,1000step,2000step
    'sweep.sizes={model.hidden_size:[32,64,128],model.num_layers:[2,4,8]}'      settings that change together
    model=gpt_small,gpt_medium,gpt_large                                        files of one's own (-cd)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bigtrain.config.hydra_adapter import Override, quote
from bigtrain.errors import ConfigError, Problem
from bigtrain.sweep.settings import ScalingSettings

_FIX = "for instance model.hidden_size=32,64,128 trainer.max_duration=500step,1000step,2000step"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What `sweep=scaling` asks for; `resumed`: the sweep's directory, where it goes on with one."""

    settings: ScalingSettings
    resumed: Path | None = None


def free_parameters(sizes: int, lengths: int, runs: int, known_E: bool) -> tuple[str, ...]:
    """What so many different N and D can tell: all of E, A, alpha, B, beta, or those of one term; () where nothing.

    With E unknown a term needs 3 different values; with E known 2, but one of the terms 3. One run more than parameters
    is asked for, so that there is noise to see.
    """
    most, least = max(sizes, lengths), min(sizes, lengths)
    names = [] if known_E else ["E"]
    if most < 3:
        return ()
    if least >= (2 if known_E else 3):
        names += ["A", "alpha", "B", "beta"]
    elif least == 1:
        names += ["A", "alpha"] if sizes > 1 else ["B", "beta"]
    else:
        return ()
    return tuple(names) if runs > len(names) else ()


def sizes_axis(settings: ScalingSettings, overrides: Iterable[Override]) -> list[dict[str, str]]:
    """The rows of `sweep.sizes`: key → value as an override, per size. Raises ConfigError for a table that is none."""
    table: Mapping[str, Any] = settings.sizes
    problems = []
    for key, column in table.items():
        if not isinstance(column, list) or not all(isinstance(value, (str, int, float)) for value in column):
            problems.append(f"{key} is {column!r}; it must be a list of values, one per size")
    lengths = {len(column) for column in table.values() if isinstance(column, list)}
    if len(lengths) > 1 and not problems:
        problems.append(f"the columns have {', '.join(map(str, sorted(lengths)))} values; they must be equally many")
    given = {override.key_or_group for override in overrides}
    problems += [f"{key} is given outside the table, too" for key in table if key in given]
    if problems:
        fix = "sweep.sizes={model.hidden_size:[64,128,256],model.num_layers:[2,4,6]}"
        raise ConfigError(*(Problem("CONFIG-SWEEP", f"sweep.sizes: {said}", fix=fix) for said in problems))
    return [dict(zip(table, map(_word, row), strict=True)) for row in zip(*table.values(), strict=True)]


def require_grid(settings: ScalingSettings, configs: Iterable[Any]) -> None:
    """Raises ConfigError where runs of these configs, once finished, would tell no law."""
    configs = list(configs)
    sizes = len({repr(config.model) for config in configs})
    lengths = len({str(config.trainer.max_duration) for config in configs})
    if free_parameters(sizes, lengths, len(configs), settings.irreducible_loss is not None):
        return
    counts = f"{_count(len(configs), 'run')} of {_count(sizes, 'model')} and {_count(lengths, 'length')} of training"
    cause = "3 of each are needed, or 4 of one of them; where E is known (sweep.irreducible_loss) 3 and 2, or 3 of one"
    raise ConfigError.of("CONFIG-SWEEP", f"no law can be fitted to {counts}", cause=cause, fix=_FIX)


def _word(value: Any) -> str:
    return quote(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
