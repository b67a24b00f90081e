"""The batch script of docs/cluster.md, word for word, under stand-ins of Slurm's commands."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.commands.conftest import COMMAND, TINY, Shell
from tests.commands.test_ranks_command import LONG, final_bytes, run_named
from tests.distributed.slurm_stand_ins import Slurm

PAGE = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
(SBATCH,) = (text for text in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "#SBATCH" in text)

# Trains until it is asked to stop; started again it ends with $THEN.
STUB = """#!/bin/bash
echo "${SLURM_RESTART_COUNT:-0} $SLURM_PROCID/$SLURM_STEP_NUM_TASKS $*" >> started
[ -n "$SLURM_RESTART_COUNT" ] && exit $THEN
trap 'exit $SAVED' USR1
while true; do sleep 0.05; done
"""


def two_tasks(script):
    """The script with two nodes of one task each."""
    found = script.replace("--nodes=4", "--nodes=2").replace("--ntasks-per-node=8", "--ntasks-per-node=1")
    assert found.count("=2\n") == 1 and found.count("-node=1\n") == 1
    return found


def wait_for(condition, seconds=100):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("saved", "then", "restarts", "state"),
    [(75, 0, 1, "COMPLETED"), (75, 2, 1, "FAILED"), (6, 0, 0, "FAILED")],
)
def test_a_job_that_saved_its_state_is_put_in_the_queue_again(tmp_path, saved, then, restarts, state):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bigtrain").write_text(STUB)
    (tmp_path / "bin/bigtrain").chmod(0o755)
    slurm = Slurm(tmp_path, tmp_path / "bin")
    slurm.environment |= {"SAVED": str(saved), "THEN": str(then)}
    job = slurm.submit(two_tasks(SBATCH), tmp_path)
    started = tmp_path / "started"
    wait_for(lambda: started.exists() and started.read_text().count("\n") == 2)
    time.sleep(0.2)  # the traps of both
    slurm.signal(job, signal.SIGUSR1)
    assert slurm.wait(job) == state, next(tmp_path.glob("*.out")).read_text()
    lines = sorted(started.read_text().splitlines())
    assert [line.split()[:2] for line in lines] == [
        [str(restart), f"{rank}/2"] for restart in range(restarts + 1) for rank in range(2)
    ]
    assert len({line.split(maxsplit=2)[2] for line in lines}) == 1, "every start has the same words"
    assert f"name=gpt-{job}" in lines[0].split() and "resume=auto" in lines[0].split()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requeued_twice_the_bytes_are_the_same(tmp_path):
    """USR1 before the time is over, then a preemption (SIGTERM, which ends the script, too; Slurm starts it again)."""
    words = [*TINY, "tracking.samples=false", *LONG, "trainer.max_duration=600step"]
    shell = Shell(tmp_path, {**os.environ})
    shell.run(*words, "trainer.processes=2", "name=whole")
    slurm = Slurm(tmp_path, COMMAND.parent)
    script = re.sub(r"(resume=auto).*?\n(?=code=)", rf"\1 {' '.join(words)}\n", two_tasks(SBATCH), flags=re.DOTALL)
    assert "text_corpus" not in script
    script = script.replace("--cpus-per-task=12", "--cpus-per-task=1")
    job = slurm.submit(script, tmp_path)
    rows = lambda: sum(len(path.read_text().splitlines()) for path in tmp_path.glob("outputs/gpt-*/*/metrics.jsonl"))  # noqa: E731
    for count, ask in ((8, lambda: slurm.signal(job, signal.SIGUSR1)), (25, lambda: preempt(slurm, job))):
        wait_for(lambda count=count: rows() >= count)
        ask()
    assert slurm.wait(job, 300) == "COMPLETED", (tmp_path / f"slurm-{job}.out").read_text()
    log = (tmp_path / f"slurm-{job}.out").read_text()
    assert log.count("stopped by SIGUSR1") == 1 and log.count("stopped by SIGTERM") == 1
    assert final_bytes(run_named(shell, f"gpt-{job}"), 600) == final_bytes(run_named(shell, "whole"), 600)


def preempt(slurm, job):
    """PreemptMode=REQUEUE."""
    (slurm.home / job / "requeue").touch()
    slurm.signal(job, signal.SIGTERM)
