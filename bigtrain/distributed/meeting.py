"""How the ranks of a run meet: the store that rank 0 (or torchrun's agent) serves, and the network that gloo uses.

A rank that does not come, a port that is taken and an address that is not reached each end in a sentence of their own.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from bigtrain.distributed.environment import RankEnvironment
from bigtrain.errors import MachineError

_SECONDS_BETWEEN_LOOKS = 0.1
_MOST_NAMED = 8  # ranks, in a sentence
_SIOCGIFADDR = 0x8915  # the IPv4 address of an interface, see netdevice(7)


class RankLostError(MachineError):
    """Another rank is gone. `launch` returns the exit code of the rank that failed first instead of this one's."""


def meet(environment: RankEnvironment, seconds: float) -> dist.Store:
    """The store of all ranks, once every rank has come to it; gloo then uses the network by which they came.

    Raises RankLostError for ranks that have not come within `seconds`, MachineError for a port that is taken.
    """
    deadline = time.monotonic() + seconds
    place = f"{environment.address}:{environment.port}"
    served_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        server = dist.TCPStore(
            environment.address,
            environment.port,
            is_master=environment.rank == 0 and not served_by_agent,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,  # it would not say who is missing
        )
        # torchrun may keep its store for a later attempt, with the keys of those before.
        store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", server)
        own = own_address(environment.address)
        store.set(_key(environment.rank), f"{socket.gethostname()} {own}")
        missing = list(range(environment.size))
        while missing := [rank for rank in missing if not store.check([_key(rank)])]:
            if time.monotonic() > deadline:
                raise _not_come(missing, environment, place)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if "GLOO_SOCKET_IFNAME" not in os.environ:
            addresses = [store.get(_key(rank)).decode().split()[-1] for rank in range(environment.size)]
            _use_interface(own, addresses)
    except (dist.DistError, RuntimeError) as error:
        if "EADDRINUSE" in str(error):
            raise MachineError.of(
                "RANK-PORT",
                f"port {environment.port}, where the ranks are to meet, is taken on this machine",
                cause=f"{environment.launcher} and the variables beside it: rank 0 serves {place}",
                fix="choose another port: MASTER_PORT=…, or torchrun --master-port=…",
            ) from error
        raise RankLostError.of(
            "RANK-MISSING",
            f"rank {environment.rank} does not reach rank 0 at {place}, or no longer, within trainer.rank_timeout",
            cause=str(error).splitlines()[0][:300],
            fix="look at what rank 0 has said, and whether this machine reaches that address and port",
        ) from error
    return store


def own_address(target: str) -> str:
    """The IPv4 address of this machine on the way to another; 127.0.0.1 where it is this one or can't be told."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))  # of a datagram socket: looks up the route, sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address; "" where none has. Linux only."""
    if sys.platform != "linux":
        return ""
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                found = ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""


def _use_interface(own: str, addresses: list[str]) -> None:
    """Tells gloo which network to use. Left alone it takes what the host's name stands for, which Debian's /etc/hosts
    makes 127.0.1.1, and then other machines are told to connect to themselves.
    """
    # On the machine of rank 0, its own name may stand for the loopback: then the network towards another rank.
    elsewhere = [address for address in addresses if not address.startswith("127.")]
    if own.startswith("127.") and elsewhere:
        own = own_address(elsewhere[0])
    if name := interface_of(own):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _key(rank: int) -> str:
    return f"bigtrain/rank-{rank}"


def _not_come(missing: list[int], environment: RankEnvironment, place: str) -> RankLostError:
    named = ", ".join(map(str, missing[:_MOST_NAMED])) + (", …" if len(missing) > _MOST_NAMED else "")
    return RankLostError.of(
        "RANK-MISSING",
        f"{environment.size - len(missing)} of {environment.size} ranks have come within trainer.rank_timeout; "
        f"{'rank' if len(missing) == 1 else 'ranks'} {named} {'has' if len(missing) == 1 else 'have'} not",
        cause=f"rank {environment.rank} on {socket.gethostname()} waited for the others at {place}",
        fix="look at what those ranks have said, and whether their machines reach that address; "
        "trainer.rank_timeout= waits longer",
    )
