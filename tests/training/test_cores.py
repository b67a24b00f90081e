"""While other processes take our cores there is a second team of OpenMP threads, which makes those that wait sleep."""

import sys
import time
from pathlib import Path

import pytest
import torch

from bigtrain.training import cores
from bigtrain.training.cores import CoreWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in Linux's /proc")


class Busy:
    """In place of a Contention: others take our cores when the test says so."""

    takes_cores = False

    def share(self):
        return 0.5 if self.takes_cores else 0.0


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.zeros(1 << 17).add_(1)  # our own team
    yield
    torch.set_num_threads(before)


def count():
    return len(list(Path("/proc/self/task").iterdir()))


def threads(expected):
    """Threads of this process, as soon as they are so many; after some seconds, however many there are."""
    deadline = time.monotonic() + 10
    while (found := count()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def row_of(watch):
    """The next row that has something."""
    while not (row := watch.row()):
        time.sleep(0.01)
    return row


@pytest.mark.parametrize("computes, team", [(True, 2), (False, 0)])
def test_the_idle_team_comes_and_goes_with_those_who_take_cores(monkeypatch, two_threads, computes, team):
    monkeypatch.setattr(cores, "_SECONDS", 0.01)
    busy, before = Busy(), count()
    with CoreWatch(busy, computes) as watch:
        assert threads(before + 1) == before + 1
        busy.takes_cores = True
        assert threads(before + 1 + team) == before + 1 + team
        assert row_of(watch)["system/other_cpu"] in (0.0, 0.5)
        busy.takes_cores = False
        assert threads(before + 1) == before + 1
        busy.takes_cores = True
        threads(before + 1 + team)
    assert threads(before) == before, "none is left"
    watch.row()
    assert watch.row() == {}, "a share is told of once"
