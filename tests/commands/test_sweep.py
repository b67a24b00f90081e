"""bigtrain -m through the installed command: its jobs, its leaderboard, and how it stops."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import TINY, Shell

ENDLESS = [*TINY, "trainer.max_duration=100000step", "trainer.eval_every=null", "trainer.save_every=null"]


def sweep_dir(shell):
    (found,) = shell.folder.glob("outputs/*/sweeps/*")
    return found


def leaderboard(shell):
    with (sweep_dir(shell) / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def stop_when_it_trains(shell, process, *signals):
    """Sends the signals, as a terminal does, once a job has logged; returns the exit code and the output."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(file.stat().st_size for file in shell.folder.glob("outputs/*/sweeps/*/*/metrics.jsonl")):
            break
        time.sleep(0.02)
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.2)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_failure_is_shown_and_the_others_go_on(tmp_path):
    shell = Shell(tmp_path, installed=True)
    words = ["optimizer.learning_rate=1e30,1e-3", "trainer.clip_norm=null", "model.qk_norm=false"]
    done = shell.run("-m", "hydra.launcher.n_jobs=2", *TINY, *words, code=6)
    rows = leaderboard(shell)
    assert [row["state"] for row in rows] == ["failed", "finished"]
    assert [row["exit_code"] for row in rows] == ["6", "0"]
    assert "job 1/2: optimizer.learning_rate=1e30 … failed with exit code 6" in done.stdout
    assert "  error[LOSS-NONFINITE]" in done.stdout
    for row in rows:
        run = shell.folder / row["run_dir"]
        assert run.parent == sweep_dir(shell)
        assert shell.status(run)["exit_code"] == int(row["exit_code"])
    status = shell.status(shell.folder / rows[1]["run_dir"])
    assert float(rows[1]["best"]) == status["best"]["metric"] == float(rows[1]["val/loss"])
    assert rows[1]["metric"] == "val/loss"
    assert status["parameters"]["all"] > status["parameters"]["non_embedding"] > 0  # for a scaling law
    table = done.stdout[done.stdout.rindex("sweep of 2 jobs") :]
    assert table.index("1e-3") < table.index("1e30")
    assert f"tensorboard --logdir {sweep_dir(shell).relative_to(shell.folder)}" in done.stdout
    config = (shell.folder / rows[0]["run_dir"] / "config.yaml").read_text()
    assert "output_dir: outputs\n" in config  # as in a run of its own


def test_a_mistake_in_one_job_starts_none(shell):
    refused = shell.run("-m", *TINY, "model.num_kv_heads=2,3", code=2)
    assert "job 2/2 (model.num_kv_heads=3)" in refused.stderr
    assert list(shell.folder.iterdir()) == []


def test_ctrl_c_saves_the_running_job_and_starts_no_other(shell):
    process = shell.start("-m", *ENDLESS, "seed=1,2", start_new_session=True)
    code, output = stop_when_it_trains(shell, process, signal.SIGINT)
    assert code == 75
    assert [row["state"] for row in leaderboard(shell)] == ["preempted", "not started"]
    first = shell.folder / leaderboard(shell)[0]["run_dir"]
    assert shell.status(first)["state"] == "preempted"
    assert list((first / "checkpoints").glob("step-*/manifest.json"))
    assert f"bigtrain resume={first.relative_to(shell.folder)}" in output


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the jobs in /proc")
def test_ctrl_c_twice_ends_at_once_and_leaves_no_process(shell):
    process = shell.start("-m", *ENDLESS, "seed=1,2", "data.eval_tokens=2000000", start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(shell.folder.glob("outputs/*/sweeps/*/1,seed=1.log")):
        time.sleep(0.02)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True).stdout
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=30)
    assert process.returncode in (130, 75)  # 75: the job had not begun, and had ended after the first
    assert not [pid for pid in children.split() if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110


@pytest.mark.parametrize("stopped", [False, True])
def test_submitit_on_this_machine(shell, stopped):
    words = [*(ENDLESS if stopped else TINY), "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "seed=7"]
    process = shell.start("-m", *words, start_new_session=True)
    signals = [signal.SIGINT] if stopped else []
    code, output = stop_when_it_trains(shell, process, *signals)
    (row,) = leaderboard(shell)
    assert (code, row["state"]) == ((75, "preempted") if stopped else (0, "finished")), output
    assert shell.status(shell.folder / row["run_dir"])["exit_code"] == code


def test_nothing_of_a_sweep_imports_torch():
    code = "import sys, bigtrain.commands.sweep, bigtrain.sweep.submitted; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
