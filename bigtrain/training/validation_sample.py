"""How many validation samples an evaluation in training reads: a rule of sizes, so that it does not grow with the data.

A forward pass costs a third of a training step on the same samples. So a tenth of the cost of the training between two
evaluations is `_SHARE * 3` of its samples. It is never less than what measures well: 10,000 samples, which know an
accuracy to half a percent (its standard error is at most 0.5 / sqrt(10,000)); of over 32 tokens each, as many as have
320,000.
"""

from __future__ import annotations

import math

from bigtrain.config.run import TrainerConfig
from bigtrain.training.cadence import Cadences, Length, WorkUnits

_SHARE = 0.1  # of the cost of the training between two evaluations
_TRAINING_COST = 3  # of a sample, in forward passes
_LEAST_SAMPLES = 10_000
_LEAST_TOKENS = 320_000


def choose_validation_samples(
    settings: TrainerConfig, split_size: int, units: WorkUnits, length: Length, cadences: Cadences
) -> int:
    """Samples per evaluation in training: what a resumed run has resolved, else as set, or by the rule.

    The choice is kept in the state's `resolved`: a resumed run measures the same ones, whatever its cadence and length.
    """
    state = cadences.state
    known = state.resolved.get("eval_samples")
    if known is None:
        steps, whole = cadences.evaluate.steps, length.steps
        between = None if steps is None else units.batch_size * (steps if whole is None else min(steps, whole))
        only_at_end = settings.eval_every is None
        setting = "all" if settings.eval_samples == "auto" and only_at_end else settings.eval_samples
        known = str(validation_samples(setting, split_size, between, units.sample_tokens))
        state.resolved["eval_samples"] = known
    return int(known)


def validation_samples(setting: str, split_size: int, between: float | None, sample_tokens: float | None) -> int:
    """`setting`: `trainer.eval_samples`. `between`: training samples from one evaluation to the next, None where that
    is a time; `sample_tokens`: tokens of a sample on average, None where it has none.
    """
    if setting == "all":
        return split_size
    if setting != "auto":
        return min(int(setting), split_size)
    least = min(_LEAST_SAMPLES, math.ceil(_LEAST_TOKENS / (sample_tokens or 1)))
    return min(split_size, max(least, math.floor(_SHARE * _TRAINING_COST * (between or 0))))
