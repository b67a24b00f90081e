"""Learning-rate schedules, as `factory(config, warmup_steps, total_steps) -> (step -> factor of the peak rate)`.

Pure functions of the step, which counts optimizer steps attempted from 0. `total_steps` is None only for schedules
whose settings say that they don't need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bigtrain.optim.config import (
    ConstantConfig,
    CosineConfig,
    DecayShape,
    LinearConfig,
    OneCycleConfig,
    WSDConfig,
)

Schedule = Callable[[int], float]


def constant(config: ConstantConfig, warmup_steps: int, total_steps: int | None) -> Schedule:
    """Warm-up, then the peak."""
    return lambda step: _warmup(step, warmup_steps)


def linear(config: LinearConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Warm-up, then a straight line to `final_fraction`."""

    def factor(step: int) -> float:
        left = 1 - _progress(step, warmup_steps, total_steps)
        return _warmup(step, warmup_steps) * _between(config.final_fraction, 1, left)

    return factor


def cosine(config: CosineConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Warm-up, then half a cosine to `final_fraction`, arXiv:1608.03983."""

    def factor(step: int) -> float:
        left = _half_cosine(_progress(step, warmup_steps, total_steps))
        return _warmup(step, warmup_steps) * _between(config.final_fraction, 1, left)

    return factor


def wsd(config: WSDConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Warm-up, the peak, then down over the last `decay_fraction` (or what warm-up leaves), arXiv:2405.18392."""
    decay_start = config.stable_steps(warmup_steps, total_steps)

    def factor(step: int) -> float:
        progress = _progress(step, decay_start, total_steps)
        left = 1 - (math.sqrt(progress) if config.decay_shape is DecayShape.one_minus_sqrt else progress)
        return _warmup(step, warmup_steps) * _between(config.final_fraction, 1, left)

    return factor


def one_cycle(config: OneCycleConfig, warmup_steps: int, total_steps: int) -> Schedule:
    """Half a cosine up to the peak and another down to the last step, arXiv:1708.07120.

    As `torch.optim.lr_scheduler.OneCycleLR`, momentum aside. `warmup_steps` is 0: it has `warmup_fraction`.
    """
    last = total_steps - 1
    peak = max(0.0, config.warmup_fraction * total_steps - 1)

    def factor(step: int) -> float:
        if step < peak:
            return _between(config.initial_fraction, 1, 1 - _half_cosine(step / peak))
        return _between(config.final_fraction, 1, _half_cosine(min(1.0, (step - peak) / max(1.0, last - peak))))

    return factor


def laid_out_again(before: Schedule, after: Schedule, start: int, added: int) -> Schedule:
    """`before`, and from step `start` on `after`, for a training made `added` steps longer; the steps of `after` count
    from there. Until that has risen to where `before` had come, the rate stays there (re-warming: arXiv:2403.08763).
    """
    reached = before(start - 1) if start else 0.0
    passed = next((step for step in range(added) if after(step) >= reached), 0)

    def factor(step: int) -> float:
        if step < start:
            return before(step)
        return reached if step - start < passed else after(step - start)

    return factor


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _progress(step: int, start: int, end: int) -> float:
    """How far from `start` to `end`, 0 … 1."""
    return min(1.0, max(0, step - start) / max(1, end - start))


def _half_cosine(progress: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
