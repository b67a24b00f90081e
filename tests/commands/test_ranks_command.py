"""Several ranks through the real command: real processes over gloo, real signals and kills."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from .conftest import GLYPHS, TINY, Shell
from .test_resume_command import final_bytes, kill_after_rows

NEEDS_PROC = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the ranks in /proc")
pytestmark = NEEDS_PROC

RANKS = [*TINY, "trainer.processes=2", "tracking.samples=false"]
LONG = ["trainer.max_duration=240step", "trainer.save_every=20step", "trainer.log_every=10", "model.dropout=0.1"]


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path, {**os.environ, "GLOO_SOCKET_IFNAME": "lo"})


def run_named(shell, name):
    (run,) = [run for run in shell.runs() if run.parent.name == name]
    return run


def ranks_of(launcher):
    """Process ids of the ranks, in the order of their numbers."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(map(int, children))


def wait_for_rows(shell, process, name, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(shell.folder.glob(f"outputs/{name}/*/metrics.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_two_ranks_give_the_losses_of_one_process_in_one_directory(shell):
    # 131 windows in batches of 4: 33, an odd number, so that one rank has none in the last round.
    words = [
        *TINY,
        "tracking.samples=false",
        "trainer.log_every=1",
        "trainer.eval_every=5step",
        "data.eval_tokens=2100",
    ]
    shell.run(*words, "name=one")
    installed = Shell(shell.folder, shell.environment, installed=True)  # launcher and ranks from their start
    done = installed.run(*words, "name=two", "trainer.processes=2")
    one, two = (shell.rows(run_named(shell, name)) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two, strict=True):
        for tag in ("train/loss", "val/loss", "test/loss", "optim/grad_norm"):
            assert b.get(tag) == pytest.approx(a[tag], rel=2e-6) if tag in a else tag not in b, (a["step"], tag)
    assert "2 ranks" in done.stdout
    assert done.stdout.count("step 20/20") == 3, "rank 0 alone talks"
    assert shell.status(run_named(shell, "two"))["environment"]["ranks"] == 2


def test_killed_ranks_start_again_and_end_with_the_same_bytes(shell):
    shell.run(*RANKS, *LONG, "name=whole")
    process = shell.start(*RANKS, *LONG, "name=killed", "trainer.max_restarts=2")
    for rank, rows in ((1, 4), (0, 14)):
        wait_for_rows(shell, process, "killed", rows)
        os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors.count("a rank was killed by SIGKILL; starting again") == 2
    assert final_bytes(run_named(shell, "killed"), 240) == final_bytes(run_named(shell, "whole"), 240)
    losses = [[row.get("train/loss") for row in shell.rows(run_named(shell, name))] for name in ("killed", "whole")]
    assert losses[0] == losses[1], "sums of both ranks, saved and gone on with"


def test_a_checkpoint_that_rank_0_cannot_write_ends_both(shell):
    process = shell.start(*RANKS, *LONG, "trainer.max_duration=100000step", "name=refused")
    wait_for_rows(shell, process, "refused", 1)
    ranks = ranks_of(process.pid)
    for step in range(200, 2000, 20):
        (run_named(shell, "refused") / f"checkpoints/step-{step:08d}").symlink_to(shell.folder)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    assert "something else is in the way" in errors
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_a_signal_before_there_is_a_rank_is_not_lost(shell):
    process = shell.start(*RANKS, *LONG, "trainer.max_duration=100000step", "name=early")
    while not ranks_of(process.pid) and process.poll() is None:
        process.send_signal(signal.SIGUSR1) if listens(process.pid) else time.sleep(0.005)
    process.communicate(timeout=60)
    assert process.returncode in (75, 128 + signal.SIGUSR1), "before or after the ranks listen"


def listens(pid):
    """Whether a process handles SIGUSR1 itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGUSR1 - 1) & 1


def test_a_signal_to_one_rank_stops_both(shell):
    process = shell.start(*RANKS, *LONG, "trainer.max_duration=100000step", "name=one_told")
    wait_for_rows(shell, process, "one_told", 3)
    os.kill(ranks_of(process.pid)[1], signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert shell.status(run_named(shell, "one_told"))["state"] == "preempted"


def test_ranks_agree_on_the_clock(shell):
    words = ["scheduler=constant", "trainer.max_duration=2s", "trainer.eval_every=0.05s", "trainer.save_every=0.3s"]
    shell.run(*RANKS, *words, "name=timed", "trainer.rank_timeout=20s")
    assert sum("val/loss" in row for row in shell.rows(run_named(shell, "timed"))) > 5


def test_running_statistics_are_those_of_the_checkpoint(shell):
    """What the ranks measured together is what one process measures with the weights and statistics that were saved."""
    words = ["trainer.gpus=0", "trainer.processes=2", "trainer.batch_size=20", "trainer.max_duration=12step"]
    shell.run(*GLYPHS, *words, "model.batch_norm=true", "name=normed")
    run = run_named(shell, "normed")
    shell.run("eval", f"checkpoint={run}", "split=val")
    found = json.loads((run / "eval.json").read_text())["metrics"]
    assert found["loss"] == pytest.approx(shell.status(run)["metrics"]["val/loss"], rel=1e-5)


def test_a_signal_saves_and_exits_75_and_one_process_goes_on(shell):
    process = shell.start(*RANKS, *LONG, "name=killed", "trainer.save_every=null")
    wait_for_rows(shell, process, "killed", 1)
    ranks = ranks_of(process.pid)
    assert kill_after_rows(shell, process, 4, signal.SIGUSR1) == 75
    run = run_named(shell, "killed")
    assert shell.status(run)["state"] == "preempted"
    assert len(ranks) == 2 and not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    refused = shell.run(f"resume={run}", "trainer.batch_size=9", code=2)
    assert "trainer.batch_size" in refused.stderr
    shell.run(f"resume={run}", "trainer.processes=1")
    assert shell.status(run)["state"] == "finished"
    assert [row["step"] for row in shell.rows(run) if "train/loss" in row] == list(range(10, 250, 10))


def test_a_stopped_rank_is_an_error_within_its_timeout(shell):
    process = shell.start(*RANKS, *LONG, "trainer.max_duration=100000step", "name=stopped", "trainer.rank_timeout=2s")
    wait_for_rows(shell, process, "stopped", 3)
    os.kill(ranks_of(process.pid)[1], signal.SIGSTOP)
    _, errors = process.communicate(timeout=120)
    ended = time.time()
    assert process.returncode == 5
    assert "error[RANK-LOST]" in errors
    assert "Traceback" not in errors
    status = run_named(shell, "stopped") / "status.json"
    assert json.loads(status.read_text())["state"] == "failed"
    # From when the other rank had given up, whatever else the machine does: the agent alone would wait 30 s.
    assert ended - status.stat().st_mtime < 25


def test_ranks_stop_and_save_when_their_launcher_is_killed(shell):
    process = shell.start(*RANKS, *LONG, "trainer.max_duration=100000step", "name=orphans")
    wait_for_rows(shell, process, "orphans", 3)
    process.kill()
    process.communicate(timeout=60)
    run = run_named(shell, "orphans")
    deadline = time.monotonic() + 120
    while shell.status(run)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert shell.status(run)["state"] == "preempted"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data.concentration=1e-3", "data.order=3", "data.vocab_size=8"], 3, "DATA-MARKOV"),
        (["optimizer=sgd", "optimizer.learning_rate=1e30", "trainer.clip_norm=null"], 6, "LOSS-NONFINITE"),
        (["trainer.batch_size=9"], 2, "batch_size is 9, which 2 ranks does not divide"),
    ],
)
def test_what_fails_on_every_rank_is_said_once_with_its_code(shell, words, code, message):
    refused = shell.run(*RANKS, *words, code=code)
    assert refused.stderr.count(message) == 1


def join(shell, environments, *words, last=()):
    """Starts a rank with each environment, as torchrun and srun do; their exit codes and outputs.

    `last`: more words for the last rank.
    """
    processes = [
        Shell(shell.folder, {**shell.environment, **environment}).start(
            *words, *(last if environment is environments[-1] else ())
        )
        for environment in environments
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], outputs


def torchrun(port):
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def slurm(job):
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(job)}
    return [{**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]


@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_ranks_of_another_launcher_join(shell, launcher):
    codes, outputs = join(shell, launcher(20_000 + os.getpid() % 20_000), *TINY, "tracking.samples=false")
    assert codes == [0, 0], outputs
    (run,) = shell.runs()
    assert shell.status(run)["environment"]["ranks"] == 2
    assert outputs[1][0] == "", "rank 1 prints nothing"


def test_what_fails_on_another_rank_alone_reaches_the_user_with_documented_codes(shell):
    ranks = torchrun(20_000 + (os.getpid() + 7) % 20_000)
    codes, outputs = join(shell, ranks, *TINY, "tracking.samples=false", last=["seed=3"])
    assert "rank 1:" in outputs[1][1]
    assert "error[RANK-SETTINGS]: rank 1 was given other settings than rank 0" in outputs[1][1]
    assert "error[RANK-LOST]" in outputs[0][1]
    assert codes == [5, 2]
    assert shell.runs() == []


@pytest.mark.parametrize("key", ["trainer.processes", "trainer.gpus"])
def test_a_contradiction_with_the_launcher_is_refused(shell, key):
    codes, outputs = join(shell, torchrun(1)[:1], *TINY, f"{key}=3", "trainer.batch_size=9")
    assert codes == [2]
    assert re.search(rf"{key} is 3, but the launcher has started 2 ranks", outputs[0][1])
