"""Real ranks over gloo: as many processes of one worker script."""

import os
import socket
import subprocess
import sys

LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(worker, ranks, *arguments, timeout=120, **variables):
    """Runs `worker` (a path) as each of so many ranks, to their end; fails with the output of the first that fails.

    `variables` are added to their environment.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), *map(str, arguments)],
            env={**os.environ, **meeting, **variables, "RANK": str(rank), "GLOO_SOCKET_IFNAME": LOOPBACK},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output[-3000:]
