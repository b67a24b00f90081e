"""Ranks that meet, that don't come, and the network by which they meet. Each rank is a thread of this process."""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigtrain.distributed import meeting
from bigtrain.distributed.environment import RankEnvironment
from bigtrain.distributed.meeting import RankLostError, interface_of, meet, own_address
from bigtrain.errors import ExitCode, MachineError


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that what a test sets is taken back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def rank(number, size, port, address="127.0.0.1"):
    return RankEnvironment(number, size, number, size, address, port, "WORLD_SIZE")


def test_ranks_that_have_all_come_share_a_store_and_a_network(port):
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda number: meet(rank(number, 2, port), 30), range(2))
    first.set("said", "by rank 0")
    assert second.get("said") == b"by rank 0"
    if sys.platform == "linux":
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_who_has_not_come_is_said(port):
    with ThreadPoolExecutor() as pool:
        failures = [pool.submit(meet, rank(number, 4, port), seconds) for number, seconds in ((0, 3), (1, 1))]
        errors = [str(failure.exception()) for failure in failures]
        assert isinstance(failures[0].exception(), RankLostError)
    for error in errors:
        assert "error[RANK-MISSING]: 2 of 4 ranks have come within trainer.rank_timeout; ranks 2, 3 have not" in error
    assert "waited for the others at 127.0.0.1" in errors[1]


def test_rank_0_that_is_not_there_is_said(port):
    with pytest.raises(RankLostError, match=rf"rank 1 does not reach rank 0 at 127\.0\.0\.1:{port}"):
        meet(rank(1, 2, port), 1)


def test_a_port_that_is_taken_is_said(port):
    with socket.socket() as holder:
        holder.bind(("", port))
        holder.listen()
        with pytest.raises(MachineError, match=rf"RANK-PORT.*port {port}.* is taken") as caught:
            meet(rank(0, 2, port), 1)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT and not isinstance(caught.value, RankLostError)


def test_a_later_attempt_does_not_find_the_ranks_of_the_one_before(port, monkeypatch):
    kept = meet(rank(0, 1, port), 5)  # torchrun's agent keeps its store
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(RankLostError, match="1 of 2 ranks"):
        meet(rank(1, 2, port), 1)
    del kept


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere gloo chooses")
def test_where_the_name_of_rank_0_is_the_loopback_the_network_is_that_towards_the_others(monkeypatch):
    """Debian's /etc/hosts: a machine finds itself at 127.0.1.1."""
    found = {"10.0.0.2": "10.0.0.1"}
    monkeypatch.setattr(meeting, "own_address", found.__getitem__)
    monkeypatch.setattr(meeting, "interface_of", {"10.0.0.1": "eth0", "127.0.0.1": "lo"}.__getitem__)
    for addresses, interface in ((["127.0.0.1", "10.0.0.2"], "eth0"), (["127.0.0.1", "127.0.0.1"], "lo")):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none")
        meeting._use_interface("127.0.0.1", addresses)
        assert os.environ["GLOO_SOCKET_IFNAME"] == interface


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's ioctl")
def test_addresses_and_their_interfaces():
    assert own_address("127.0.0.1") == "127.0.0.1" and own_address("no such host.") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo" and interface_of("203.0.113.1") == ""
