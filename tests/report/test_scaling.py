"""From runs to a recommendation: which runs count, what is predicted, what is written and said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bigtrain.commands.scaling import conclude
from bigtrain.commands.sweep import _All, run
from bigtrain.config.library import Request
from bigtrain.report.scaling import Analysis, analyse, document_of, measured_runs
from bigtrain.report.scaling_figure import scaling_png
from bigtrain.sweep.jobs import Sweep, expand, validated
from bigtrain.sweep.leaderboard import take_finished, write_leaderboard
from bigtrain.sweep.saved import FILE
from bigtrain.sweep.saved import document_of as saved_words
from bigtrain.sweep.scaling_law import Law
from bigtrain.sweep.settings import ScalingSettings
from bigtrain.sweep.trial import Trial, trials_of

LAW = Law(E=1.5, A=20.0, alpha=0.5, B=300.0, beta=0.5)
SIZES = {16: 5_000, 32: 20_000, 64: 80_000}  # width → parameters, of them 1,000 of embeddings
LENGTHS = {"100step": 200_000, "200step": 400_000, "400step": 800_000}
GRID = ["sweep=scaling", "model.hidden_size=16,32,64", "trainer.max_duration=100step,200step,400step"]


def finished(folder: Path, *words: str, noise: float = 0.001, **changed: object) -> tuple[Sweep, list[Trial]]:
    """The sweep with the files of runs that have ended, whose losses follow LAW."""
    sweep = expand(Request("train", tuple(words or GRID)))
    trials, draw = trials_of(sweep, folder), np.random.default_rng(2)
    for trial in trials:
        swept = trial.job.shown()
        count, tokens = SIZES[int(swept.get("hidden_size", 16))], LENGTHS[swept.get("max_duration", "100step")]
        loss = float(LAW.loss(count, tokens)) * (1 + noise * draw.standard_normal())
        loss += 0.1 * (swept.get("learning_rate") == "1e-1")
        status = {
            "state": "finished",
            "best": {"name": "val/loss", "metric": loss, "step": 1},
            "metrics": {"val/loss": loss, "val/excess": loss - LAW.E},
            "cost": {"samples": tokens // 64, "tokens": tokens, "flops": 8.0 * count * tokens},
            "parameters": {"all": count, "non_embedding": count - 1_000},
        }
        trial.run_dir.mkdir(parents=True)
        (trial.run_dir / "status.json").write_text(json.dumps(status | changed))
        (trial.run_dir / "config.yaml").write_text("name: tiny\n")
        trial.ended(0, 1.0)
    return sweep, trials


def analysed(trials: list[Trial], **settings: object) -> Analysis:
    found = analyse(trials, ScalingSettings(**settings))
    assert isinstance(found, Analysis), found
    return found


def test_a_grid_is_fitted_and_the_largest_run_is_predicted_without_it(tmp_path):
    _, trials = finished(tmp_path)
    found = analysed(trials, budget_flops=1e13)
    assert set(found.law) == set(Law._fields)
    assert found.law["E"].low <= LAW.E <= found.law["E"].high
    assert found.optimal_loss == pytest.approx(LAW.E)
    assert found.cost == pytest.approx((8.0, 1.0))
    assert found.held_out.numbers == (9,)
    assert found.held_out.predicted.low <= found.held_out.measured <= found.held_out.predicted.high
    best = found.recommendation
    assert 8.0 * best.parameters.value * best.tokens.value == pytest.approx(1e13)
    run, tokens, loss = best.nearest
    assert (run.parameters, tokens) == (80_000, pytest.approx(1e13 / 8 / 80_000))
    assert loss >= best.loss.value


def test_without_a_budget_it_is_ten_times_the_largest_run(tmp_path):
    _, trials = finished(tmp_path)
    assert analysed(trials).recommendation.flops == pytest.approx(10 * 8 * 80_000 * 800_000)


def test_n_may_leave_the_embeddings_out(tmp_path):
    _, trials = finished(tmp_path)
    assert {run.parameters for run in analysed(trials, parameters="non_embedding").runs} == {4_000, 19_000, 79_000}


def test_seeds_are_runs_of_their_own_and_of_other_settings_the_best_counts(tmp_path):
    _, trials = finished(tmp_path, *GRID, "seed=1,2", "optimizer.learning_rate=1e-1,1e-3")
    found = analysed(trials)
    assert len(found.runs) == 18
    assert {run.words["learning_rate"] for run in found.runs} == {"1e-3"}
    assert len(found.held_out.numbers) == 2
    assert any("of each size and length those with its best settings" in note for note in found.notes)


def test_runs_that_did_not_finish_are_left_out(tmp_path):
    _, trials = finished(tmp_path)
    trials[0].state = "failed"
    trials[1].metrics["val/loss"] = float("nan")
    runs, _, _, notes = measured_runs(trials, "all")
    assert [run.number for run in runs] == [3, 4, 5, 6, 7, 8, 9]
    assert "7 of 9 runs are fitted" in notes[-1]
    assert "job 2 is left out" in notes[0]
    assert "no law is fitted: 3 finished runs" in analyse(trials[2:5], ScalingSettings())


def test_a_known_optimum_helps_out_where_runs_are_too_few_for_E(tmp_path):
    _, trials = finished(tmp_path, *GRID[:1], "model.hidden_size=16,32", GRID[2], noise=1e-4)
    found = analysed(trials)
    assert (found.known_E, set(found.law)) == (pytest.approx(LAW.E), {"A", "alpha", "B", "beta"})
    assert any("known optimum" in note for note in found.notes)


def test_data_that_was_repeated_often_is_pointed_out(tmp_path):
    _, trials = finished(tmp_path)
    spec = trials[8].run_dir / "checkpoints/step-400/data_spec.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"sizes": {"train": 100}}))
    assert any("job 9 saw its data 125 times" in note for note in analysed(trials).notes)


def test_what_is_printed_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep, trials = finished(Path("sweep"), *GRID, "sweep.budget_flops=1e12")
    conclude(sweep, sweep.scaling, Path("sweep"), trials)
    said = capsys.readouterr().out
    for part in ("L(N, D) = E + A / N^alpha + B / D^beta", "within E's interval", "held out, the largest run (job 9)"):
        assert part in said
    assert "for 1e+12 FLOPs, 1.95 times those of the largest run:" in said
    assert "bigtrain model.hidden_size=32 trainer.max_duration=6.25Mtok" in said
    assert "bigtrain -m resume=sweep sweep.budget_flops=1e13" in said
    document = json.loads(Path("sweep/scaling.json").read_text())
    assert document == json.loads(json.dumps(document_of(analysed(trials, budget_flops=1e12), sweep.scaling.settings)))
    assert len(document["runs"]) == 9
    assert Path("sweep/scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_law_of_one_thing_has_a_figure_and_no_recommendation(tmp_path):
    _, trials = finished(tmp_path, *GRID[:2], "seed=1,2")
    found = analysed(trials)
    assert (set(found.law), found.recommendation) == ({"E", "A", "alpha"}, None)
    assert scaling_png(found).startswith(b"\x89PNG")


def test_a_sweep_whose_runs_have_finished_is_only_fitted_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/some/sweeps/1")
    sweep, trials = finished(folder, *GRID)
    write_leaderboard(folder, trials)
    (folder / FILE).write_text(json.dumps(saved_words(sweep.request)))
    again = validated(expand(Request("train", ("resume=latest", "sweep.budget_flops=1e15"))))
    assert run(again) == 0
    said = capsys.readouterr().out
    assert "sweep of 9 jobs, 9 finished" in said
    assert "for 1e+15 FLOPs" in said
    with (folder / "leaderboard.csv").open() as file:
        assert [(row["state"], row["seconds"]) for row in csv.DictReader(file)] == [("finished", "1.0")] * 9
    assert "sweep.budget_flops=1e15" in json.loads((folder / FILE).read_text())["words"]


def test_a_run_that_is_not_finished_is_started_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/some/sweeps/1")
    sweep, trials = finished(folder, *GRID)
    (trials[3].run_dir / "status.json").write_text('{"state": "running"}')
    trials = trials_of(sweep, folder)
    take_finished(trials, folder)
    source = _All(trials, folder)
    assert [trial.job.number for trial in source.take(9)] == [4]
