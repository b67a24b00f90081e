"""What other processes take from the cores: by a /proc made up here, and beside a process that is really busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bigtrain.tracking.contention import Contention

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")

TICKS = os.sysconf("SC_CLK_TCK")
ME, CHILD, STRANGER = os.getpid(), 4_000_001, 4_000_002


class Machine:
    """A /proc of a machine with cores of its own: time passes as `run` says."""

    def __init__(self, folder, monkeypatch, cores):
        self.proc, self.cgroup, self.clock = folder / "proc", folder / "cgroup", 1000.0
        self.cgroup.mkdir()
        self.user, self.nice, self.processes = [0.0] * cores, 0.0, {}
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        self.run(0.0)

    def contention(self, threads, ranks=1):
        return Contention(threads, ranks, self.proc, self.cgroup)

    def run(self, seconds, nice=0.0, **cores):
        """Processes "me", "child" and "stranger" use so many cores each, for these seconds; `nice`: at low priority."""
        self.clock += seconds
        self.nice += nice * seconds
        for name, used in cores.items():
            self.processes[name] = self.processes.get(name, 0.0) + used * seconds
            self.user[0] += used * seconds
        rows = ["cpu 1 2 3 4", *(f"cpu{core} {int(used * TICKS)} 0 77 88" for core, used in enumerate(self.user))]
        rows[1] = rows[1].replace(" 0 77", f" {int(self.nice * TICKS)} 77")
        self.proc.mkdir(exist_ok=True)
        (self.proc / "stat").write_text("\n".join([*rows, "intr 5 5", "ctxt 9"]) + "\n")
        parents = {"me": (ME, os.getppid()), "child": (CHILD, ME), "stranger": (STRANGER, 1)}
        for name, (pid, parent) in parents.items():
            (self.proc / str(pid)).mkdir(exist_ok=True)
            used = int(self.processes.get(name, 0.0) * TICKS)
            fields = f"S {parent} 1 1 0 -1 0 0 0 0 0 {used} 500 0 0 20 0 1 0"
            (self.proc / str(pid) / "stat").write_text(f"{pid} (a) b (c) {fields}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """How many cores → a Machine."""
    return lambda cores: Machine(tmp_path, monkeypatch, cores)


def read(machine, contention, **cores):
    """Three intervals of five seconds: the last share, and the warnings."""
    sentences = []
    for _ in range(3):
        machine.run(5.0, **cores)
        share = contention.share()
        sentences += filter(None, [contention.warning()])
    return share, sentences


def test_a_process_that_takes_a_core_is_warned_of_once(machine):
    machine = machine(2)
    contention = machine.contention(threads=2)
    machine.run(5.0, me=1.0, stranger=1.0)
    assert contention.share() == pytest.approx(0.5, abs=0.01)
    assert contention.takes_cores and contention.warning() == ""  # for a moment yet
    machine.run(5.0, me=1.0, stranger=1.0)
    contention.share()
    assert contention.warning() == "other processes use 1.0 of the 2 cores: steps take longer"
    assert read(machine, contention, me=1.0, stranger=1.0) == (pytest.approx(0.5, abs=0.01), [])


@pytest.mark.parametrize(
    "cores, threads, used",
    [
        (2, 2, {"me": 2.0}),  # alone
        (2, 2, {"me": 1.0, "child": 1.0}),  # what this process has started is its own
        (2, 2, {"me": 1.6, "stranger": 0.3}),  # a desktop
        (2, 2, {"me": 2.0, "nice": 1.0}),  # gives way
        (2, 1, {"me": 1.0, "stranger": 1.0}),  # takes the core that is free
        (64, 64, {"me": 62.0, "stranger": 1.0}),  # within what the counters are off by
    ],
)
def test_no_false_alarm(machine, cores, threads, used):
    machine = machine(cores)
    contention = machine.contention(threads)
    assert read(machine, contention, **used)[1] == [] and not contention.takes_cores


def test_a_moment_is_not_worth_a_warning(machine):
    machine = machine(2)
    contention = machine.contention(threads=2)
    for _ in range(4):
        machine.run(5.0, me=1.0, stranger=1.0)
        assert contention.share() > 0 and contention.warning() == ""
        machine.run(5.0, me=2.0)
        assert contention.share() == 0 and contention.warning() == ""


def test_ranks_of_one_launcher_know_each_other(machine, monkeypatch):
    machine = machine(2)
    monkeypatch.setattr(os, "getppid", lambda: 1)  # whose child the stranger is, too
    share, sentences = read(machine, machine.contention(threads=1, ranks=2), me=1.0, stranger=1.0)
    assert (share, sentences) == (0.0, [])


def test_it_is_not_read_at_every_step(machine):
    machine = machine(2)
    contention = machine.contention(threads=2)
    machine.run(3.0, stranger=1.0)
    assert contention.share() is None
    machine.run(1.0, stranger=1.0)
    assert contention.share() == pytest.approx(0.5, abs=0.01)


def test_where_nothing_is_known_nothing_is_said(machine):
    machine = machine(2)
    (machine.proc / "stat").write_text("cpu0 no numbers\n")
    broken = machine.contention(threads=2)
    machine.run(5.0, stranger=2.0)
    assert broken.share() is None
    for name, limit in (("cpu.max", "100000 100000"), ("cpu/cpu.cfs_quota_us", "50000")):
        (machine.cgroup / name).parent.mkdir(exist_ok=True)
        (machine.cgroup / name).write_text(limit)
        limited = machine.contention(threads=2)
        machine.run(5.0, stranger=2.0)
        assert limited.share() is None
        (machine.cgroup / name).unlink()
    (machine.cgroup / "cpu.max").write_text("max 100000")
    unlimited = machine.contention(threads=2)
    machine.run(5.0, stranger=2.0)
    assert unlimited.share() == 1.0


def test_a_process_that_is_really_busy_is_seen(monkeypatch):
    """It has no parent here, so it is of others, and uses half a second; further processes may be busy too."""
    monkeypatch.setattr("bigtrain.tracking.contention._SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr("bigtrain.tracking.contention._READING_SHARE", float("inf"))
    program = "import sys, time\nsys.stdin.read()\nwhile time.process_time() < 0.5: sum(range(10_000))"
    with subprocess.Popen(
        ["sh", "-c", '"$0" -c "$1" <&3 & ', sys.executable, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.dup2(0, 3),  # what sh starts in the background has no standard input
        close_fds=False,
    ) as process:
        process.wait()
        contention = Contention(threads=1)
        started = time.monotonic()
        process.stdin.close()
        process.stdout.read()  # to its end
        share = contention.share()
    assert share * len(os.sched_getaffinity(0)) * (time.monotonic() - started) > 0.3
