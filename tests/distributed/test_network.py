"""Two machines under torchrun, the cable between them cut in mid-run: an error on both sides, then the same bytes."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from tests.commands.conftest import TINY, Shell
from tests.commands.test_ranks_command import LONG, final_bytes, run_named
from tests.distributed.machines import Machines

WORDS = [*TINY, "tracking.samples=false", *LONG, "trainer.max_duration=600step", "resume=auto"]
TIMEOUT = 6
PORT = 29_500  # on machines of our own every port is free


@pytest.fixture
def machines():
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs unshare, nsenter and ip")
    try:
        with Machines() as machines:
            yield machines
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")


def static(machines, number):
    return [f"--node-rank={number}", f"--master-addr={machines.addresses[0]}", f"--master-port={PORT}"]


def elastic(machines, number):
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={machines.addresses[0]}:{PORT}", "--rdzv-id=test"]
    host = [f"--rdzv-conf=is_host={int(number == 0)}"]  # both have this machine's name, which stands for the loopback
    return [*meeting, *host, f"--local-addr={machines.addresses[number]}"]


def torchrun(machines, folder, form, restarts, *words):
    """torchrun on both machines; their outputs go to `<number>.log`."""
    started = []
    for number in range(2):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        launcher += [*form(machines, number), f"--max-restarts={restarts}", "-m", "bigtrain"]
        log = (folder / f"{number}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*machines.inside(number), *launcher, *words]
        started.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment))
    return started


def wait_for_rows(folder, processes, count):
    while all(process.poll() is None for process in processes):
        rows = list(folder.glob("outputs/cut/*/metrics.jsonl"))
        if rows and rows[0].read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError((folder / "0.log").read_text()[-3000:] + (folder / "1.log").read_text()[-3000:])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", [static, elastic])
def test_a_machine_that_is_cut_off_in_mid_run(tmp_path, machines, form):
    shell = Shell(tmp_path)
    shell.run(*WORDS, "trainer.processes=2", "name=whole")
    words = [*WORDS, "name=cut", f"trainer.rank_timeout={TIMEOUT}s"]
    started = torchrun(machines, tmp_path, form, 0, *words)
    wait_for_rows(tmp_path, started, 8)
    machines.unplug(1)
    cut = time.time()
    said = [None, None]
    while not all(said) and time.time() < cut + 60:
        for number in range(2):
            if said[number] is None and "error[RANK-LOST]" in (tmp_path / f"{number}.log").read_text():
                said[number] = time.time() - cut
        time.sleep(0.05)
    assert all(said), "a sentence on both sides"
    machines.plug(1)  # else torchrun's agents wait for each other
    codes = [process.wait(timeout=120) for process in started]
    print(f"{form.__name__}: said after {said[0]:.1f} s and {said[1]:.1f} s")  # seen with -rP
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert codes == [1, 1], "torchrun's, whatever its ranks end with"
    assert all(re.search(r"exitcode\s*:\s*5\b", log) for log in logs) or form is elastic
    status = shell.status(run_named(shell, "cut"))
    assert (status["state"], status["exit_code"]) == ("failed", 5)

    started = torchrun(machines, tmp_path, form, 3, *words)  # the same words
    wait_for_rows(tmp_path, started, 30)
    machines.unplug(1)
    time.sleep(TIMEOUT + 5)
    machines.plug(1)
    codes = [process.wait(timeout=300) for process in started]
    assert codes == [0, 0], (tmp_path / "0.log").read_text()[-3000:]
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert all("error[RANK-LOST]" in log for log in logs), "cut off once more, and restarted by torchrun"
    assert final_bytes(run_named(shell, "cut"), 600) == final_bytes(run_named(shell, "whole"), 600)
