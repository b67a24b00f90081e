"""Ranking, leaderboard.csv, and the exit code of a sweep."""

from __future__ import annotations

import csv
import json

import pytest
from rich.console import Console

from bigtrain.config.library import Request
from bigtrain.sweep.jobs import expand
from bigtrain.sweep.leaderboard import leaderboard_table, ranked, write_leaderboard
from bigtrain.sweep.trial import Trial, exit_code_of, trials_of


def trials(folder, *words: str) -> list[Trial]:
    return trials_of(expand(Request("train", words)), folder)


def end(trial: Trial, value: float | str | None, code: int = 0, **best: object) -> None:
    """The trial ends with this metric in its status.json."""
    trial.run_dir.mkdir()
    facts = {"metric": value, "step": 5, "name": "val/loss", "higher_is_better": False} | best
    state = {0: "finished", 75: "preempted"}.get(code, "failed")
    status = {"state": state, "best": facts, "metrics": {"val/loss": value}}
    (trial.run_dir / "status.json").write_text(json.dumps(status))
    trial.ended(code, 2.0)


def test_run_directories_are_named_for_people(tmp_path):
    names = [trial.run_dir.name for trial in trials(tmp_path, "optimizer.learning_rate=1e-3,3e-3", "model=cnn,gpt2")]
    assert names[0] == "1,learning_rate=1e-3,model=cnn"
    names = [trial.run_dir.name for trial in trials(tmp_path, "seed=range(0,10)", "+extra.x='a b/c'")]
    assert names == sorted(names)
    assert trials(tmp_path, "+extra.x='../a b',c")[0].run_dir.name == "1,x=-..-a-b-"
    assert trials(tmp_path, "seed=1", "trainer.log_every=2")[0].run_dir.name == "1"


def test_the_best_first_failures_last_nan_before_them(tmp_path):
    jobs = trials(tmp_path, "seed=1,2,3,4,5")
    for trial, (value, code) in zip(jobs, [(3.0, 0), (None, 6), ("NaN", 0), (1.0, 0), (2.0, 0)], strict=True):
        end(trial, value, code)
    assert [trial.job.number for trial in ranked(jobs)] == [4, 5, 1, 3, 2]


def test_higher_may_be_better(tmp_path):
    jobs = trials(tmp_path, "seed=1,2")
    for trial, value in zip(jobs, (0.1, 0.9), strict=True):
        end(trial, value, name="val/accuracy", higher_is_better=True)
    assert [trial.job.number for trial in ranked(jobs)] == [2, 1]


def test_metrics_that_can_not_be_compared_are_not(tmp_path):
    jobs = trials(tmp_path, "seed=1,2")
    end(jobs[0], 3.0)
    end(jobs[1], 0.9, name="val/accuracy", higher_is_better=True)
    assert [trial.job.number for trial in ranked(jobs)] == [1, 2]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(leaderboard_table("x", jobs))
    assert "val/accuracy 0.9000" in console.export_text()


def test_the_csv_has_one_row_per_job_and_is_replaced(tmp_path):
    jobs = trials(tmp_path, "optimizer.learning_rate=1e-3,3e-3", "model=transformer")
    write_leaderboard(tmp_path, jobs)
    end(jobs[1], 1.5)
    write_leaderboard(tmp_path, jobs)
    with (tmp_path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["state"] == "waiting" and rows[0]["best"] == ""
    assert rows[1] == {
        "job": "2",
        "state": "finished",
        "exit_code": "0",
        "seconds": "2.0",
        "optimizer.learning_rate": "3e-3",
        "metric": "val/loss",
        "best": "1.5",
        "best_step": "5",
        "val/loss": "1.5",
        "run_dir": str(jobs[1].run_dir),
    }
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["leaderboard.csv"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((0, 6, 3), 6), ((75, 0), 75), ((75, 3), 3), ((-9, 0), 137), ((), 0)],
)
def test_the_exit_code_is_that_of_the_first_job_that_failed(tmp_path, codes, expected):
    jobs = trials(tmp_path, f"seed=range(0,{len(codes)})") if codes else []
    for trial, code in zip(jobs, codes, strict=True):
        trial.ended(code, 1.0)
    assert exit_code_of(jobs) == expected


def test_the_error_of_a_job_is_the_last_block_of_its_log(tmp_path):
    trial = trials(tmp_path, "seed=1")[0]
    block = "error[A]: one\n  cause: x\n  fix:   y\nerror[B]: two\n  fix:   z"
    trial.log.write_text(f"error[OLD]: earlier\nstep 1\n{block}\nwarning: later\n")
    assert trial.error == block
    trial.log.write_text("step 1\nKilled\n")
    assert trial.error == "step 1\nKilled"
