"""Learning-rate schedules, as `factory(config, warmup_steps, total_steps) -> (step -> factor of the peak rate)`.

Pure functions of the step, which counts optimizer steps attempted from 0. `total_steps` is None only for schedules
whose settings say that they don't need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bigtrain.optim.config import ConstantConfig, CosineConfig, LinearConfig

Schedule = Callable[[int], float]


def constant(config: ConstantConfig, warmup_steps: int, total_steps: int | None) -> Schedule:
    """Warm-up, then the peak."""
    return lambda step: _warmup(step, warmup_steps)


def linear(config: LinearConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Warm-up, then a straight line to `final_fraction`."""

    def factor(step: int) -> float:
        left = 1 - _progress(step, warmup_steps, total_steps)
        return _warmup(step, warmup_steps) * (config.final_fraction + (1 - config.final_fraction) * left)

    return factor


def cosine(config: CosineConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Warm-up, then half a cosine to `final_fraction`, arXiv:1608.03983."""

    def factor(step: int) -> float:
        left = 0.5 * (1 + math.cos(math.pi * _progress(step, warmup_steps, total_steps)))
        return _warmup(step, warmup_steps) * (config.final_fraction + (1 - config.final_fraction) * left)

    return factor


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _progress(step: int, warmup_steps: int, total_steps: int) -> float:
    """How far from the end of warm-up to the end of training, 0 … 1."""
    return min(1.0, max(0, step - warmup_steps) / max(1, total_steps - warmup_steps))
