"""Which evaluation is the best so far, and whether to give up waiting for a better one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bigtrain.config.kinds import TaskConfig
from bigtrain.config.run import EarlyStoppingConfig
from bigtrain.config.watched import watched_metric
from bigtrain.errors import ConfigError, nearest
from bigtrain.training.state import TrainState


class Selection:
    """Compares evaluations by one metric of the validation split; its memory is in the TrainState."""

    def __init__(self, settings: EarlyStoppingConfig, task: TaskConfig | type[TaskConfig], state: TrainState):
        self.metric, self.higher_is_better = watched_metric(settings, task)
        self._patience = settings.patience
        self._min_delta = settings.min_delta
        self._state = state

    def observe(self, metrics: Mapping[str, float], step: int) -> bool:
        """Records an evaluation; returns whether it is the best so far. NaN is never better."""
        metric, state = metrics[self.metric], self._state
        if self._is_better(metric, state.patience_metric, self._min_delta):
            state.patience_metric, state.evaluations_without_better = metric, 0
        else:
            state.evaluations_without_better += 1
        if not self._is_better(metric, state.best_metric, 0.0):
            return False
        state.best_metric, state.best_step = metric, step
        return True

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations in a row were not better by `min_delta`."""
        return self._patience is not None and self._state.evaluations_without_better >= self._patience

    def require(self, metrics: Iterable[str]) -> None:
        """Raises ConfigError unless the watched metric is one of these."""
        known = list(metrics)
        if self.metric not in known:
            near = nearest(self.metric, known)
            raise ConfigError.of(
                "CONFIG-VALUE",
                f"trainer.early_stopping.metric is {self.metric}, which this task does not measure",
                fix=f"did you mean {near[0]} ?" if near else f"choose one of {', '.join(known)}",
            )

    def _is_better(self, metric: float, than: float | None, by: float) -> bool:
        if metric != metric:
            return False
        if than is None:
            return True
        return metric > than + by if self.higher_is_better else metric < than - by
