"""bigtrain -m sweep=optuna through the installed command: killed and continued, the best settings, the leaderboard."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from bigtrain.config.saved import MARK
from bigtrain.config.yaml_files import read_document
from tests.config.composing import composed

PROBLEM = [
    "model=mlp",
    "model.widths=[8]",
    "data=synthetic/gaussian_mixture",
    "data.train_samples=400",
    "data.eval_samples=100",
    "trainer.gpus=0",
    "trainer.eval_every=10step",
    "trainer.log_every=10",
    "trainer.save_every=10step",
    "tracking.samples=false",
]
SPACE = [
    "optimizer.learning_rate=interval(1e-4,1e-1)",
    "trainer.batch_size=interval(8,40)",
    "model.activation=relu,gelu",
]


def sweep_dir(shell) -> Path:
    (found,) = shell.folder.glob("outputs/*/sweeps/*")
    return found


def leaderboard(shell) -> list[dict[str, str]]:
    with (sweep_dir(shell) / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for(shell, process, pattern: str, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if list(shell.folder.glob(f"outputs/*/sweeps/*/{pattern}")):
            return
        time.sleep(0.02)
    state = process.poll()
    process.kill()
    raise AssertionError(f"{pattern} never came: {state}")


def kill(process, with_its_jobs: bool = False) -> None:
    jobs = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if with_its_jobs else []
    process.kill()
    for job in jobs:
        os.kill(int(job), signal.SIGKILL)
    process.communicate()


def require_every_trial_once(shell, trials: int) -> None:
    """Each number has one run, in which no step and no evaluation comes twice or is missing."""
    rows = leaderboard(shell)
    assert [int(row["job"]) for row in rows] == list(range(1, trials + 1))
    assert all(row["state"] in ("finished", "pruned") for row in rows), rows
    runs = sorted(path.parent.name for path in sweep_dir(shell).glob("*/config.yaml"))
    assert [int(name[:3]) for name in runs] == list(range(1, trials + 1))
    for row in rows:
        run = shell.folder / row["run_dir"]
        logged = [line["step"] for line in shell.rows(run) if "train/loss" in line]
        evaluated = [line["step"] for line in shell.rows(run) if "val/accuracy" in line]
        assert logged == list(range(10, 10 * len(logged) + 1, 10))
        assert evaluated == logged[: len(evaluated)]
        assert (shell.status(run)["state"] == "finished") == (row["state"] == "finished")


def test_a_killed_sweep_goes_on_and_its_best_settings_are_an_experiment(shell):
    words = [*PROBLEM, *SPACE, "sweep.trials=2", "sweep.startup_trials=2", "trainer.max_duration=300step"]
    process = shell.start("-m", "sweep=optuna", *words)
    wait_for(shell, process, "002,*/checkpoints/step-*")
    kill(process)
    begun = {path.name for path in sweep_dir(shell).glob("00*,*") if path.is_dir()}
    done = shell.run("-m", "resume=latest", "sweep.trials=3", "sweep.n_jobs=2")
    require_every_trial_once(shell, 3)
    rows = leaderboard(shell)
    assert len(begun) == 2
    assert begun < {Path(row["run_dir"]).name for row in rows}
    assert "going on with the sweep of 3 trials, 2 begun" in done.stdout

    best = max((row for row in rows if row["state"] == "finished"), key=lambda row: float(row["best"]))
    folder = sweep_dir(shell)
    document = read_document(shell.folder / best["run_dir"] / "config.yaml")
    again = composed("experiment=best", folder=folder).document
    for saved in (document, again):
        saved.pop(MARK)
    assert again == document
    assert f"-cd {folder.relative_to(shell.folder)} experiment=best" in done.stdout
    finished = [row["state"] for row in rows].count("finished")
    assert f"5 finished trials are needed, {finished} have" in done.stdout


def test_a_mistake_starts_nothing(shell):
    refused = shell.run("-m", "sweep=optuna", *PROBLEM, "model.dropout=interval(0.1,1.5)", code=2)
    assert "tried with model.dropout=1.5" in refused.stderr
    assert list(shell.folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_trials_killed_again_and_again_none_lost_none_repeated(shell):
    words = [*PROBLEM, *SPACE, "sweep.trials=20", "sweep.startup_trials=8", "trainer.max_duration=200step"]
    draw = random.Random(0)
    process = shell.start("-m", "sweep=optuna", *words)
    kills = []
    for number in (3, 8, 12, 17):
        wait_for(shell, process, f"{number:03d},*/" + draw.choice(["", "config.yaml", "checkpoints/step-*"]), 900)
        time.sleep(draw.uniform(0, 0.5))
        kills.append(number % 2 == 0)  # alone, it leaves its trial behind, which then saves and ends
        kill(process, with_its_jobs=kills[-1])
        process = shell.start("-m", "resume=latest")
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    require_every_trial_once(shell, 20)
    states = [row["state"] for row in leaderboard(shell)]
    assert (sweep_dir(shell) / "importance.png").is_file()
    print(f"\n{states.count('finished')} finished, {states.count('pruned')} pruned; killed with the job: {kills}")
    print(re.search("importance of the settings.*", output)[0])
