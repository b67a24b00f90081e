"""A job of submitit's under Slurm: what is left when Slurm stops it, and when it is put in the queue again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.commands.conftest import TINY, Shell
from tests.distributed.slurm_stand_ins import Slurm

RUN_JOB = "import sys; from bigtrain.sweep.submitted import run_job; run_job({}, '.', 'log', {{}}, 'report', {})"
SAVES = ["bash", "-c", "trap 'exit 75' TERM; echo > begun; while true; do sleep 0.02; done"]


@pytest.mark.parametrize(
    ("asked", "restarts", "rank", "requeued", "reported"),
    [
        (signal.SIGUSR2, 0, 0, True, None),
        (signal.SIGUSR2, 0, 1, False, None),  # the first task does it for all
        (signal.SIGUSR2, 2, 0, False, 75),  # twice are enough
        (signal.SIGTERM, 2, 0, False, None),  # preempted, or cancelled: what follows is Slurm's
        (None, 0, 0, False, 3),
        (None, 0, 1, False, None),
    ],
)
def test_how_a_job_ends(tmp_path, asked, restarts, rank, requeued, reported):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $* > requeued\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}
    slurm |= {"SLURM_PROCID": str(rank), "SLURM_RESTART_COUNT": str(restarts)}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = SAVES if asked else ["bash", "-c", "exit 3"]
    job = subprocess.Popen([sys.executable, "-c", RUN_JOB.format(command, 2)], cwd=tmp_path, env=environment)
    while asked and not (tmp_path / "begun").exists():
        time.sleep(0.01)
    if asked:
        job.send_signal(asked)
    assert job.wait(60) == (75 if asked and reported is None else 0)
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7_4\n"
    report = tmp_path / "report"
    assert (json.loads(report.read_text())["exit_code"] if report.exists() else None) == reported
    assert (tmp_path / ("log.task1.log" if rank else "log")).exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_whose_job_of_two_tasks_is_put_in_the_queue_again(tmp_path):
    slurm = Slurm(tmp_path)
    shell = Shell(tmp_path, slurm.environment)
    words = [*TINY, "tracking.samples=false", "trainer.max_duration=600step", "trainer.batch_size=8"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.tasks_per_node=2", "hydra.launcher.max_num_timeout=1"]
    process = shell.start("-m", *words, *launcher, "seed=7")
    pattern = "outputs/*/sweeps/*/**/metrics.jsonl"
    while sum(path.read_text().count("\n") for path in tmp_path.glob(pattern)) < 5 and process.poll() is None:
        time.sleep(0.05)
    if process.poll() is None:
        slurm.signal("100", signal.SIGUSR2)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:] + errors[-3000:]
    (metrics,) = tmp_path.glob(pattern)
    assert shell.status(metrics.parent)["environment"]["ranks"] == 2
    assert "stopped by SIGTERM" in (metrics.parent / "train.log").read_text(), "as run_job hands it on"
    assert [row["step"] for row in shell.rows(metrics.parent) if "train/loss" in row] == list(range(10, 610, 10))
