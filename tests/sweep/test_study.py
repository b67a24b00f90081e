"""The study of sweep=optuna: what is drawn, claimed, pruned and kept, without any training."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigtrain.config.library import Request
from bigtrain.errors import MachineError
from bigtrain.sweep.jobs import Sweep, expand
from bigtrain.sweep.study import JOURNAL, Study
from bigtrain.sweep.trials import SearchedTrials

WORDS = (
    "sweep=optuna",
    "optimizer.learning_rate=interval(1e-4,1e-1)",
    "model.dropout=choice(0.0,0.1)",
    "seed=range(1,4)",
)


def sweep_of(*words: str) -> Sweep:
    sweep = expand(Request("train", (*WORDS, *words)))
    assert sweep.search is not None
    return dataclasses.replace(sweep, search=dataclasses.replace(sweep.search, metric="val/loss"))


def study_in(folder: Path, *words: str) -> Study:
    return Study(folder, sweep_of(*words).search)


def outcome(values: dict[str, str]) -> float:
    return abs(float(values["optimizer.learning_rate"]) - 0.01) + float(values["model.dropout"])


def run_through(folder: Path, dies: list[bool]) -> list[dict[str, str]]:
    """All trials one after the other; where `dies`, whoever looks after one is killed after claiming it."""
    words = ("sweep.trials=12", "sweep.startup_trials=4")
    study = study_in(folder, *words)
    for now in dies:
        with study.claiming():
            number, trial = study.claim()
        if now:
            study.let_go(number)  # as the kernel does with the locks of the dead
            study = study_in(folder, *words)
            with study.claiming():
                again, trial = study.claim()
            assert again == number
        study.tell(number, "COMPLETE", outcome(study.search.swept(trial.params)), {})
    return [study.values(trial) for trial in study.trials()]


@settings(max_examples=3, deadline=None)
@given(dies=st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_search_that_was_killed_draws_what_an_uninterrupted_one_draws(dies):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = run_through(Path(one), [False] * 12)
        assert run_through(Path(other), dies) == whole
    assert len({str(values) for values in whole}) == 12


def test_two_processes_share_a_study_and_never_a_trial(tmp_path):
    one, other = (study_in(tmp_path, "sweep.trials=5") for _ in range(2))
    numbers = []
    for study in (one, other, one, other, one, other):
        with study.claiming():
            claimed = study.claim()
        numbers.append(None if claimed is None else claimed[0])
    assert numbers == [0, 1, 2, 3, 4, None]
    one.let_go(2)  # its process dies
    with other.claiming():
        assert other.claim()[0] == 2


def test_a_trial_whose_values_were_only_half_drawn_gets_the_others(tmp_path):
    study = study_in(tmp_path)
    half = study._study.ask()  # killed after the first value was written
    half.suggest_categorical("model.dropout", ["0.0", "0.1"])
    with study.claiming():
        number, trial = study.claim()
    assert number == 0
    assert set(study.search.swept(trial.params)) == {"optimizer.learning_rate", "model.dropout", "seed"}


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path):
    study = study_in(tmp_path)
    with study.claiming():
        number, _ = study.claim()
    study.tell(number, "COMPLETE", 1.0, {})
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code":4,"work')
    again = study_in(tmp_path)
    with again.claiming():
        assert again.claim()[0] == 1
    assert [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert len(study_in(tmp_path).trials()) == 2


def test_a_journal_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / JOURNAL).write_text("no journal\n{}\n")
    with pytest.raises(MachineError, match="can't be gone on with"):
        study_in(tmp_path)


def log(trial, *losses: float) -> None:
    """The run of a trial has evaluated so often."""
    trial.run_dir.mkdir(exist_ok=True)
    rows = [{"step": 10 * place, "val/loss": loss} for place, loss in enumerate(losses, start=1)]
    (trial.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def finish(source: SearchedTrials, trial, loss: float) -> None:
    best = {"metric": loss, "step": 10, "name": "val/loss", "higher_is_better": False}
    status = {"state": "finished", "best": best, "metrics": {"val/loss": loss}}
    (trial.run_dir / "status.json").write_text(json.dumps(status))
    trial.ended(0, 1.0)
    source.ended(trial)


@pytest.mark.parametrize(("pruner", "stops_at"), [("median", 2), ("halving", 1), ("none", None)])
def test_what_falls_behind_is_pruned_at_the_evaluation_where_it_does(tmp_path, pruner, stops_at):
    sweep = sweep_of(f"sweep.pruner={pruner}", "sweep.startup_trials=3", "sweep.trials=4", "sweep.n_jobs=3")
    source = SearchedTrials(sweep, sweep.search, tmp_path)
    for trial in source.take(3):
        log(trial, 3.0, 2.0, 1.0)
        assert not source.gives_up(trial)
        finish(source, trial, 1.0)
    (last,) = source.take(1)
    log(last, 3.0 if pruner == "median" else 9.0)
    assert source.gives_up(last) == (stops_at == 1)
    log(last, 3.0 if pruner == "median" else 9.0, 8.0)
    assert source.gives_up(last) == (stops_at is not None)
    (last.run_dir / "status.json").write_text('{"state": "preempted"}')
    last.ended(75, 1.0)
    source.ended(last)
    frozen = source.study.trials()[3]
    if stops_at is None:
        assert frozen.state.name == "RUNNING"  # stopped for another reason: gone on with later
    else:
        assert (last.state, frozen.state.name) == ("pruned", "PRUNED")
        assert len(frozen.intermediate_values) == stops_at
        assert source.take(1) == []


def test_a_pruned_trial_whose_sweep_died_before_it_could_say_so_is_not_run_again(tmp_path):
    sweep = sweep_of("sweep.startup_trials=1", "sweep.trials=2")
    source = SearchedTrials(sweep, sweep.search, tmp_path)
    for losses in ([1.0, 0.5], [9.0]):
        (trial,) = source.take(1)
        log(trial, *losses)
        gives_up = source.gives_up(trial)
        if losses[0] == 1.0:
            finish(source, trial, 0.5)
    assert gives_up
    source.study.let_go(1)
    again = SearchedTrials(sweep, sweep.search, tmp_path)
    assert again.take(1) == []
    assert [trial.state.name for trial in again.study.trials()] == ["COMPLETE", "PRUNED"]
    assert (tmp_path / "tensorboard" / trial.run_dir.name).is_dir()


def test_a_run_that_finished_while_nobody_looked_is_told_not_repeated(tmp_path):
    sweep = sweep_of("sweep.trials=1")
    source = SearchedTrials(sweep, sweep.search, tmp_path)
    (trial,) = source.take(1)
    log(trial, 1.0)
    best = {"metric": 1.0, "step": 10, "name": "val/loss", "higher_is_better": False}
    (trial.run_dir / "status.json").write_text(json.dumps({"state": "finished", "best": best}))
    source.study.let_go(0)
    again = SearchedTrials(sweep, sweep.search, tmp_path)
    assert again.take(1) == []
    assert again.study.best().value == 1.0
    assert not again.left()
    assert (tmp_path / "experiment" / "best.yaml").is_file()


def test_a_loss_that_is_not_finite_is_an_outcome_and_a_mistake_is_none(tmp_path):
    sweep = sweep_of("sweep.trials=2")
    source = SearchedTrials(sweep, sweep.search, tmp_path)
    for code in (6, 2):
        (trial,) = source.take(1)
        trial.ended(code, 1.0)
        source.ended(trial)
    assert [trial.state.name for trial in source.study.trials()] == ["PRUNED", "FAIL"]
    assert [trial.state for trial in SearchedTrials(sweep, sweep.search, tmp_path).all()] == ["failed", "failed"]
    entries = sorted((tmp_path / "tensorboard").iterdir())
    assert [entry.name[:3] for entry in entries] == ["001", "002"]
    assert "_hparams_/session_start_info" in EventAccumulator(str(entries[0])).Reload().summary_metadata


def test_the_setting_that_decides_is_the_important_one(tmp_path):
    study = study_in(tmp_path, "sweep.trials=30", "sweep.startup_trials=30")
    for _ in range(30):
        with study.claiming():
            number, trial = study.claim()
        study.tell(number, "COMPLETE", float(study.search.swept(trial.params)["model.dropout"]), {})
    shares = study.importance()
    assert max(shares, key=shares.get) == "model.dropout"
    assert sum(shares.values()) == pytest.approx(1)
