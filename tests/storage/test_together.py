"""What ranks do together: all of it, or an error on every one."""

import threading
import time

import pytest

from bigtrain.errors import MachineError
from bigtrain.storage import together as module
from bigtrain.storage.together import ALONE, LeftOff, on_first, together

from .thread_ranks import as_ranks


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_rank_gets_what_each_returned(size):
    found = as_ranks(size, lambda ranks: together(ranks, lambda stop: [ranks.rank, None]))
    assert found == [[[rank, None] for rank in range(size)]] * size


def test_one_process_needs_nobody():
    assert together(ALONE, lambda stop: 7) == [7]
    with pytest.raises(ZeroDivisionError):
        together(ALONE, lambda stop: 1 / 0)


def test_only_rank_0_acts_on_first():
    assert as_ranks(3, lambda ranks: on_first(ranks, lambda: ranks.rank)) == [0, 0, 0]


@pytest.mark.parametrize("failing", range(3))
def test_one_ranks_error_is_everyones_and_the_others_leave_off(failing, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_ROUNDS", 0.01)
    left_off = []

    def act(ranks, stop):
        if ranks.rank == failing:
            raise MachineError.of("DISK-FULL", "no space", cause="c", fix="f")
        stop.wait(20)
        left_off.append(ranks.rank)
        raise LeftOff

    found = as_ranks(3, lambda ranks: together(ranks, lambda stop: act(ranks, stop)))
    assert sorted(left_off) == sorted({0, 1, 2} - {failing})
    for rank, error in enumerate(found):
        (problem,) = error.problems
        assert problem.message == ("no space" if rank == failing else f"rank {failing}: no space")
        assert (problem.code, problem.cause, problem.fix) == ("DISK-FULL", "c", "f")


def test_an_unforeseen_error_is_told_and_stays_what_it_is_at_home():
    found = as_ranks(2, lambda ranks: together(ranks, lambda stop: 1 / ranks.rank))
    assert isinstance(found[0], ZeroDivisionError)
    assert isinstance(found[1], MachineError) and "rank 0: ZeroDivisionError" in str(found[1])


def test_the_ranks_hear_of_each_other_while_one_of_them_takes_long(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_ROUNDS", 0.001)
    rounds = []

    def act(ranks):
        real = ranks.exchange
        ranks.exchange = lambda document: rounds.append(ranks.rank) or real(document)
        return together(ranks, lambda stop: time.sleep(0.1) if ranks.rank else None)

    as_ranks(2, act)
    assert rounds.count(0) == rounds.count(1) > 5


def test_a_lost_rank_stops_the_action_and_no_thread_stays(monkeypatch):
    class Lost:
        rank, size = 0, 2

        def exchange(self, document):
            raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(module, "_SECONDS_BETWEEN_ROUNDS", 0.01)
    with pytest.raises(RuntimeError, match="closed by peer"):
        together(Lost(), lambda stop: stop.wait(20))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("together")]
