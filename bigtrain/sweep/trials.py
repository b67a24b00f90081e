"""The trials of `sweep=optuna`: asked from the study, pruned by what they log, and reported to it when they end."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

from bigtrain.errors import ExitCode
from bigtrain.storage import durable
from bigtrain.sweep.experiment import experiment_text
from bigtrain.sweep.hparams import write_entry
from bigtrain.sweep.jobs import Sweep
from bigtrain.sweep.leaderboard import write_leaderboard
from bigtrain.sweep.search import Search
from bigtrain.sweep.study import Study
from bigtrain.sweep.trial import Trial, read_status, trial_of
from bigtrain.tracking.formatting import number as shown
from bigtrain.tracking.jsonl import read_rows

BEST = "best"
"""Name of the experiment with the best settings, in the sweep's directory."""

_DIGITS = 3  # of the number in a run directory's name


@dataclasses.dataclass
class _Mine:
    """A trial that this process looks after."""

    trial: Trial
    handle: Any  # optuna's
    seen: tuple[int, int] = (0, 0)  # size and time of metrics.jsonl
    falls_behind: bool = False


class SearchedTrials:
    """A source of trials for the loop (sweep/loop.py). Their numbers are optuna's, and one more."""

    def __init__(self, sweep: Sweep, search: Search, sweep_dir: Path):
        self.study = Study(sweep_dir, search)
        self._sweep, self._search, self._sweep_dir = sweep, search, sweep_dir
        self._mine: dict[int, _Mine] = {}
        self._ended: dict[int, Trial] = {}  # ended ones do not change
        self._stopped: set[int] = set()  # not taken up again by this process
        self._best: int | None = None

    def take(self, free: int) -> list[Trial]:
        """See Source. A trial that has ended without being reported, because its sweep was killed, is reported here."""
        taken: list[Trial] = []
        while len(taken) < free:
            with self.study.claiming():
                claimed = self.study.claim(self._stopped)
            if claimed is None:
                break
            place, handle = claimed
            trial = self._trial(place, self._search.swept(handle.params))
            mine = self._mine[trial.job.number] = _Mine(trial, handle)
            if read_status(trial.run_dir).get("state") == "finished":
                trial.ended(int(ExitCode.OK), 0.0)
            elif self.study.should_end(handle):
                mine.falls_behind = True
                trial.ended(int(ExitCode.PREEMPTED), 0.0)
            else:
                taken.append(trial)
                continue
            self.ended(trial)
            self.record()
        return taken

    def gives_up(self, trial: Trial) -> bool:
        """See Source: whether the pruner stops it, at one of the evaluations since the last look."""
        mine = self._mine[trial.job.number]
        if not mine.falls_behind and (evaluations := self._new_evaluations(mine)):
            mine.falls_behind = self.study.falls_behind(mine.handle, evaluations)
        return mine.falls_behind

    def ended(self, trial: Trial) -> None:
        """See Source. One that was stopped stays open in the study: it is gone on with when the sweep is."""
        mine = self._mine.pop(trial.job.number)
        place = trial.job.number - 1
        if mine.falls_behind and trial.state in ("preempted", "stopped"):
            self._mark_pruned(trial)
        if trial.state not in ("finished", "failed", "pruned"):
            self._stopped.add(place)
            self.study.let_go(place)
            return
        state, value = "FAIL", None
        if trial.state == "finished" and trial.best is not None and math.isfinite(trial.best):
            state, value = "COMPLETE", trial.best
        elif trial.state == "pruned" or trial.exit_code == ExitCode.NUMERICS:
            state = "PRUNED"  # a loss that is not finite is an outcome: the sampler keeps away from such values
        facts = {"state": trial.state, "exit_code": trial.exit_code, "seconds": trial.seconds, "note": trial.note}
        if trial.state != "finished":
            with contextlib.suppress(OSError):  # a picture of what is in the leaderboard too
                write_entry(self._sweep_dir, trial)
        self.study.tell(place, state, value, facts)
        self._ended[place] = trial

    def left(self) -> bool:
        """See Source."""
        return any(trial.state not in ("finished", "pruned", "failed") for trial in self.all()) or (
            len(self.study.trials()) < self._search.settings.trials
        )

    def record(self) -> None:
        """See Source: the leaderboard, and the best settings as an experiment."""
        with self.study.claiming():  # whoever writes last has read last
            if trials := self.all():
                write_leaderboard(self._sweep_dir, trials)
            best = self.study.best()
            if best is not None and best.number != self._best:
                self._best = best.number
                self._write_best(self._ended[best.number])

    def all(self) -> list[Trial]:
        """Every trial of the study, also those that other processes look after."""
        found = []
        for frozen in self.study.trials():
            mine, ended = self._mine.get(frozen.number + 1), self._ended.get(frozen.number)
            if mine or ended:
                found.append(mine.trial if mine else ended)
            elif (values := self.study.values(frozen)) is not None:
                found.append(self._from_study(frozen, self._trial(frozen.number, values)))
        return [trial for trial in found if trial is not None]

    def _from_study(self, frozen: Any, trial: Trial) -> Trial:
        """How a trial stands that another process looks after, or has looked after."""
        facts = frozen.user_attrs
        if not frozen.state.is_finished():
            trial.state = "preempted" if frozen.number in self._stopped else "running"
            return trial
        trial.ended(int(facts.get("exit_code") or 0), float(facts.get("seconds") or 0.0))
        trial.state, trial.note = str(facts.get("state", trial.state)), str(facts.get("note", ""))
        if frozen.state.name != "COMPLETE":
            trial.best = None
        if trial.state == "pruned" and frozen.intermediate_values:
            trial.metrics = {self._search.metric: frozen.intermediate_values[max(frozen.intermediate_values)]}
        self._ended[frozen.number] = trial
        return trial

    def _mark_pruned(self, trial: Trial) -> None:
        evaluations = self._evaluations(trial)
        trial.state = "pruned"
        if evaluations:
            trial.metrics = {self._search.metric: evaluations[-1]}
            trial.note = f"at {shown(evaluations[-1])}"

    def _trial(self, place: int, swept: dict[str, str]) -> Trial:
        return trial_of(self._sweep.job(place + 1, swept), self._sweep_dir, _DIGITS)

    def _new_evaluations(self, mine: _Mine) -> list[float]:
        """All evaluations, where its log has changed since the last look."""
        try:
            found = (mine.trial.run_dir / "metrics.jsonl").stat()
        except OSError:
            return []
        if mine.seen == (found.st_size, found.st_mtime_ns):
            return []
        mine.seen = found.st_size, found.st_mtime_ns
        return self._evaluations(mine.trial)

    def _evaluations(self, trial: Trial) -> list[float]:
        """The watched metric at each evaluation so far."""
        metric = self._search.metric
        return [float(row[metric]) for row in read_rows(trial.run_dir / "metrics.jsonl") if metric in row]

    def _write_best(self, trial: Trial) -> None:
        heading = f"Best of the sweep: {trial.metric} {shown(trial.best or 0.0)} (trial {trial.job.number})"
        text = experiment_text(self._sweep.request_of(trial.job), heading)
        folder = self._sweep_dir / "experiment"
        with durable.disk_errors(folder):
            folder.mkdir(exist_ok=True)
            durable.replace(folder / f"{BEST}.yaml", text)
