"""The search itself, by optuna: which values come next, which trial falls behind, and what has been found.

Everything stands in `study.journal`, lines of JSON that several processes may write. A trial is claimed under one lock;
whoever claims it holds another as long as it looks after it, so that a trial whose holder has died is known, and gone
on with. What is drawn for trial n depends on the seed, on n and on the outcomes before it, not on what ran in between.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bigtrain.errors import ConfigError, MachineError
from bigtrain.randomness import mix
from bigtrain.storage import durable
from bigtrain.sweep.locks import JournalLock, locked, try_lock
from bigtrain.sweep.search import Choices, Interval, Search

JOURNAL = "study.journal"
_NAME = "sweep"


def import_optuna() -> Any:
    """The package. Raises ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        message = "sweep=optuna needs optuna, which is not installed"
        raise ConfigError.of("CONFIG-SWEEP", message, fix="pip install 'bigtrain[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Study:
    """The trials of a sweep, by number from 0; `numbers` that this process looks after are its own."""

    def __init__(self, sweep_dir: Path, search: Search):
        self.optuna = import_optuna()
        self.search = search
        self._folder = sweep_dir / ".locks"
        self._held: dict[int, int] = {}  # number → the open lock
        self._space = {part.key.lstrip("+"): self._distribution(part) for part in search.space}
        journal = sweep_dir / JOURNAL
        with durable.disk_errors(sweep_dir), self._quietly(sweep_dir):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with self.claiming():
                backend = self.optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=JournalLock(journal))
                self._study = self.optuna.create_study(
                    storage=self.optuna.storages.JournalStorage(backend),
                    study_name=_NAME,
                    direction="maximize" if search.higher_is_better else "minimize",
                    load_if_exists=True,
                    pruner=self._pruner(),
                )
            if (self._study.direction.name == "MAXIMIZE") != search.higher_is_better:
                raise ConfigError.of("RESUME-CHANGE", f"{journal} was searched in the other direction")

    def claiming(self) -> AbstractContextManager[None]:
        """Held while a trial is claimed, and while what all processes write is written."""
        return locked(self._folder / "claim")

    def claim(self, but: Collection[int] = ()) -> tuple[int, Any] | None:
        """A trial to look after, as (number, optuna's trial): one that nobody looks after any more, or a new one.

        None where all that there are to be are ended, looked after, or among `but`. Call under `claiming`.
        """
        trials = self.trials()
        for trial in trials:
            free = not trial.state.is_finished() and trial.number not in self._held and trial.number not in but
            if free and self._hold(trial.number):
                return trial.number, self._complete(trial)
        if len(trials) >= self.search.settings.trials or not self._hold(len(trials)):
            return None
        self._study.sampler = self._sampler(len(trials))
        with self._quietly(self._folder.parent):
            asked = self._study.ask(fixed_distributions=self._space)
        assert asked.number == len(trials), "claimed under a lock"
        return asked.number, asked

    def trials(self) -> list[Any]:
        """All trials so far, optuna's frozen ones."""
        with self._quietly(self._folder.parent):
            found: list[Any] = self._study.get_trials(deepcopy=False)
        return found

    def values(self, trial: Any) -> dict[str, str] | None:
        """The values that were drawn for it, as overrides by key as typed; None where some are not drawn yet."""
        return self.search.swept(trial.params) if set(trial.params) == set(self._space) else None

    def falls_behind(self, trial: Any, evaluations: list[float]) -> bool:
        """Takes in the evaluations of a trial, from its first on; whether it should end, after one of the new ones."""
        known = len(trial._cached_frozen_trial.intermediate_values)
        with self._quietly(self._folder.parent):
            for place in range(known, len(evaluations)):
                trial.report(evaluations[place], step=place + 1)
                if trial.should_prune():
                    return True
        return False

    def should_end(self, trial: Any) -> bool:
        """Whether what is known of a trial says that it should end: its holder may have died before it could say so."""
        with self._quietly(self._folder.parent):
            return bool(trial._cached_frozen_trial.intermediate_values) and bool(trial.should_prune())

    def tell(self, number: int, state: str, value: float | None, facts: dict[str, Any]) -> None:
        """Ends a trial: state is COMPLETE, PRUNED or FAIL. `facts` are kept with it."""
        with self._quietly(self._folder.parent):
            trial = self.trials()[number]
            for key, fact in facts.items():
                self._study._storage.set_trial_user_attr(trial._trial_id, key, fact)
            self._study.tell(number, value, state=self.optuna.trial.TrialState[state])
        self.let_go(number)

    def let_go(self, number: int) -> None:
        """Looks after it no more."""
        os.close(self._held.pop(number))

    def best(self) -> Any:
        """The best finished trial, or None."""
        complete = [trial for trial in self.trials() if trial.state.name == "COMPLETE"]
        sign = -1 if self.search.higher_is_better else 1
        return min(complete, key=lambda trial: (sign * trial.value, trial.number), default=None)

    def importance(self) -> dict[str, float]:
        """Share of each setting in how the better half of the finished trials differ (arXiv:2304.10255); {} if none."""
        with self._quietly(self._folder.parent):
            try:
                evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
                shares = self.optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            except (ValueError, RuntimeError):  # all trials alike
                return {}
        return {key: float(share) for key, share in shares.items() if share == share}

    def _hold(self, number: int) -> bool:
        descriptor = try_lock(self._folder / f"{number + 1}")
        if descriptor is not None:
            self._held[number] = descriptor
        return descriptor is not None

    def _complete(self, trial: Any) -> Any:
        """A trial whose holder has died; perhaps before all its values were drawn."""
        self._study.sampler = self._sampler(trial.number)
        with self._quietly(self._folder.parent):
            again = self.optuna.trial.Trial(self._study, trial._trial_id)
            for key, distribution in self._space.items():
                again._suggest(key, distribution)
        return again

    def _distribution(self, part: Choices | Interval) -> Any:
        kinds = self.optuna.distributions
        if isinstance(part, Interval):
            kind, number = (kinds.IntDistribution, int) if part.whole else (kinds.FloatDistribution, float)
            return kind(number(part.low), number(part.high), log=part.log)
        if not part.numbers:
            return kinds.CategoricalDistribution(part.values)
        first, last = part.numbers[0], part.numbers[-1]
        step = part.numbers[1] - first if len(part.numbers) > 1 else 1
        whole = all("." not in value for value in part.values)
        kind, number = (kinds.IntDistribution, int) if whole else (kinds.FloatDistribution, float)
        return kind(number(first), number(last), step=number(step))

    def _sampler(self, number: int) -> Any:
        settings = self.search.settings
        seed = mix(settings.seed, number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is called experimental by some versions
            return self.optuna.samplers.TPESampler(
                n_startup_trials=settings.startup_trials, constant_liar=True, multivariate=True, seed=seed
            )

    def _pruner(self) -> Any:
        settings, pruners = self.search.settings, self.optuna.pruners
        if settings.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=settings.startup_trials)
        if settings.pruner == "halving":
            return pruners.SuccessiveHalvingPruner(min_resource=1)
        return pruners.NopPruner()

    @contextmanager
    def _quietly(self, sweep_dir: Path) -> Iterator[None]:
        """Without optuna's warnings; what goes wrong with the journal becomes a sentence."""
        with warnings.catch_warnings(), durable.disk_errors(sweep_dir):
            warnings.simplefilter("ignore")
            try:
                yield
            except (ValueError, KeyError, RuntimeError) as error:
                if isinstance(error, ConfigError | MachineError):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                fix = "the runs in it are intact; start a new sweep"
                message = f"{sweep_dir / JOURNAL} can't be gone on with"
                raise MachineError.of("SWEEP-JOURNAL", message, cause=reason, fix=fix) from error
