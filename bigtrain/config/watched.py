"""Which metric of the validation split chooses the best weights, and in which direction; known before any training."""

from __future__ import annotations

from bigtrain.config.kinds import TaskConfig
from bigtrain.config.run import EarlyStoppingConfig, Mode

_SMALLER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "excess", "error", "mse", "mae")


GREEDY = "greedy_"
"""Begins the names of metrics of targets that were written greedily, where those of the end are searched for."""


def at_the_end(metric: str) -> str:
    """The metric of the end of a run that one of while it trained stands for."""
    return metric.removeprefix(GREEDY)


def smaller_is_better(metric: str) -> bool:
    """Of a metric's name without its split: losses, errors, and what follows from them."""
    return metric in _SMALLER_IS_BETTER or metric.endswith(("_loss", "_error"))


def watched_metric(settings: EarlyStoppingConfig, task: TaskConfig | type[TaskConfig]) -> tuple[str, bool]:
    """The metric's name ("loss") while a run trains, and whether higher is better: the task's own, or as the settings
    say.
    """
    metric = settings.metric or task.primary_metric
    auto = task.higher_is_better if metric == task.primary_metric else not smaller_is_better(metric)
    if isinstance(task, TaskConfig):
        metric = task.while_training(metric)
    return metric, auto if settings.mode is Mode.auto else settings.mode is Mode.max
