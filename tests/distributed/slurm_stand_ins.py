"""Stand-ins for Slurm's commands: one machine, real processes, Slurm's variables, signals and exit codes.

    python slurm_stand_ins.py sbatch SCRIPT | srun … COMMAND | scontrol requeue JOB | scancel JOB | sacct … -j JOB

A job is a folder of $SLURM_STAND_IN: its script, `state`, `batch` (process id of the script), `tasks` (those of the
tasks of its running step), `requeue`. Of `#SBATCH` it reads nodes, ntasks-per-node, cpus-per-task and output.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def sbatch(script):
    home = Path(os.environ["SLURM_STAND_IN"])
    number = 100 + len(list(home.iterdir()))
    job = home / str(number)
    job.mkdir()
    (job / "script").write_text(Path(script).read_text())
    (job / "state").write_text("PENDING")
    log = (job / "slurmd.log").open("w")
    subprocess.Popen([sys.executable, __file__, "slurmd", str(job)], stdout=log, stderr=log, start_new_session=True)
    print(f"Submitted batch job {number}")


def slurmd(folder):
    """Runs the script of a job, and again as long as it is put in the queue again."""
    job = Path(folder)
    text = (job / "script").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    nodes, per_node = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    variables = {
        "SLURM_JOB_ID": job.name,
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NNODES": str(nodes),
        "SLURM_TASKS_PER_NODE": f"{per_node}(x{nodes})",
    }
    if "cpus-per-task" in options:
        variables["SLURM_CPUS_PER_TASK"] = options["cpus-per-task"]
    output = Path(options.get("output", f"slurm-{job.name}.out").replace("%j", job.name))
    restarts = 0
    while True:
        environment = {**os.environ, **variables, **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})}
        with output.open("a") as log:
            batch = subprocess.Popen(["bash", str(job / "script")], env=environment, stdout=log, stderr=log)
            (job / "batch").write_text(str(batch.pid))
            (job / "state").write_text("RUNNING")
            code = batch.wait()
        if not (job / "requeue").exists():
            break
        (job / "requeue").unlink()
        restarts += 1
    cancelled = (job / "cancelled").exists()
    (job / "state").write_text("CANCELLED" if cancelled else "FAILED" if code else "COMPLETED")


def srun(*words):
    """A task for each of SLURM_NTASKS; ends with the largest exit code, 128 and more for a signal."""
    output, words = None, list(words)
    while words[0].startswith("-"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            output = words.pop(0)
    job = Path(os.environ["SLURM_STAND_IN"], os.environ["SLURM_JOB_ID"])
    tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NODELIST": f"127.0.0.[1-{nodes}]" if nodes > 1 else "127.0.0.1",
        "SLURM_STEP_TASKS_PER_NODE": os.environ["SLURM_TASKS_PER_NODE"],
    }
    started = []
    for rank in range(tasks):
        node, local = divmod(rank, tasks // nodes)
        own = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
        environment = {**os.environ, **step, **own}
        place = Path(output.replace("%j", job.name).replace("%t", str(rank)) if output else "/dev/stdout")
        with place.open("a") as log:
            started.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True))
    signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in started])
    (job / "tasks").write_text(" ".join(str(task.pid) for task in started))
    codes = [task.wait() for task in started]
    raise SystemExit(max(code if code >= 0 else 128 - code for code in codes))


def scontrol(action, number):
    assert action == "requeue"
    job = Path(os.environ["SLURM_STAND_IN"], number)
    (job / "requeue").touch()
    _end(job)


def scancel(number):
    job = Path(os.environ["SLURM_STAND_IN"], number)
    (job / "cancelled").touch()
    _end(job)


def _end(job):
    """As Slurm ends a job, but without the SIGKILL that comes after some time."""
    for pid in [*(job / "tasks").read_text().split(), (job / "batch").read_text()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


def sacct(*words):
    print("JobID|State|NodeList")
    for number in (words[place + 1] for place, word in enumerate(words) if word == "-j"):
        state = Path(os.environ["SLURM_STAND_IN"], number, "state").read_text()
        print(f"{number}|{state}|localhost")


class Slurm:
    """The stand-ins on a PATH of their own, for tests."""

    def __init__(self, folder, path=""):
        """`path`: folders to put before the others."""
        self.home = folder / "slurm"
        self.home.mkdir()
        commands = folder / "slurm-bin"
        commands.mkdir()
        for name in ("sbatch", "srun", "scontrol", "scancel", "sacct"):
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
            (commands / name).chmod(0o755)
        places = f"{commands}:{path}" if path else str(commands)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PATH": f"{places}:{os.environ['PATH']}",
            "SLURM_STAND_IN": str(self.home),
        }

    def submit(self, script, folder):
        """Submits a script, a text, from this folder; the job's number."""
        path = folder / "job.sbatch"
        path.write_text(script)
        done = subprocess.run(
            ["sbatch", path], cwd=folder, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    def signal(self, number, signal_number):
        """Sends a signal to the tasks of a job, as `sbatch --signal=…@…` has Slurm do before its time is over."""
        for pid in (self.home / number / "tasks").read_text().split():
            os.kill(int(pid), signal_number)

    def wait(self, number, seconds=60):
        """The state in which a job ends."""
        deadline = time.monotonic() + seconds
        while (state := (self.home / number / "state").read_text()) in ("PENDING", "RUNNING", ""):
            assert time.monotonic() < deadline, "it does not end"
            time.sleep(0.02)
        return state


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
