"""Records at each evaluation what the task shows of its network: texts and pictures. It never changes the training."""

from __future__ import annotations

from itertools import chain

from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataModule
from bigtrain.models.network import Network
from bigtrain.randomness import mix
from bigtrain.tasks.base import Task
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.evaluator import Evaluation


class Observer:
    """Called after each evaluation of the validation split; does nothing where it is not `enabled`.

    After a first failure it is switched off with one warning, and training goes on.
    """

    def __init__(
        self, task: Task, network: Network, data: DataModule, config: RunConfig, tracker: Tracker, enabled: bool = True
    ):
        self._task, self._network, self._data = task, network, data
        self._config, self._tracker, self._enabled = config, tracker, enabled
        self._inputs_shown = False

    def __call__(self, evaluation: Evaluation, step: int) -> None:
        if not self._enabled:
            return
        try:
            self._record(evaluation, step)
        except Exception as error:  # a picture must never end a training run
            self._enabled = False
            sentence = f"samples are switched off, training goes on: {type(error).__name__}: {error}"
            self._tracker.note(sentence, True)

    def _record(self, evaluation: Evaluation, step: int) -> None:
        inputs = () if self._inputs_shown else self._task.show_inputs(self._data)
        self._inputs_shown = True
        seed = mix(self._config.seed, step)
        shown = self._task.show(self._network, self._data, self._config, seed, evaluation.totals)
        for tag, item in chain(inputs, shown):
            if isinstance(item, str):
                self._tracker.text(tag, item, step)
            else:
                self._tracker.image(tag, item, step)
