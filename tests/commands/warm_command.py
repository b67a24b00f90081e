"""`bigtrain` with its imports done once: a server that forks a process for each command line it is given.

Each is a process of its own, with its words, folder, streams and exit code; what it does not show is how `bigtrain`
starts. Tests that start, kill or time the installed command do so themselves.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from signal import SIGKILL

_TIMEOUT_SECONDS = 200
_USED = ("torch.utils.tensorboard", "torch._dynamo", "matplotlib.pyplot", "rich.live")


def run(words, folder, stdin="", environment=None):
    """A `CompletedProcess`, as `subprocess.run` gives it, of `bigtrain` with these words, in today's environment or in
    this one.
    """
    environment = {key: value for key, value in (environment or os.environ).items() if key != "PYTEST_CURRENT_TEST"}
    server = _server_for(tuple(sorted(environment.items())))
    with tempfile.TemporaryDirectory() as streams:
        (Path(streams) / "0").write_text(stdin)
        request = {"words": [str(word) for word in words], "folder": str(folder), "streams": streams}
        code = server.ask(request)
        output, errors = ((Path(streams) / name).read_text() for name in "12")
    return subprocess.CompletedProcess(words, code, output, errors)


@lru_cache(maxsize=4)
def _server_for(environment):
    return _Server(dict(environment))


class _Server:
    """The other end: one process, which ends with this one."""

    def __init__(self, environment):
        here, there = socket.socketpair()
        with there:
            subprocess.Popen(
                [sys.executable, __file__, str(there.fileno())],
                env=environment,
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._channel = here.makefile("rw")
        self._socket = here

    def ask(self, request):
        """The exit code; of a process that takes too long, after killing it, a TimeoutError."""
        self._socket.settimeout(_TIMEOUT_SECONDS)
        print(json.dumps(request), file=self._channel, flush=True)
        pid = int(self._channel.readline())
        try:
            return int(self._channel.readline())
        except TimeoutError:
            os.kill(pid, SIGKILL)
            raise


def _serve(channel):
    for line in channel:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        print(pid, file=channel, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=channel, flush=True)
    return None


def _become(request):
    """This process goes on as the installed command would."""
    os.chdir(request["folder"])
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        descriptor = os.open(Path(request["streams"]) / str(number), flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = [str(Path(sys.executable).with_name("bigtrain")), *request["words"]]


def _leave(code):
    """As an interpreter ends, but for taking apart every module, which lasts a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import_everything():
    import bigtrain

    for module in pkgutil.walk_packages(bigtrain.__path__, "bigtrain."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _USED:
        importlib.import_module(name)


def _main():
    sys.path[0] = str(Path(sys.executable).parent)  # as a console script has it
    _import_everything()
    gc.freeze()  # a collection in a forked process would copy every page
    from bigtrain.cli import main

    with socket.socket(fileno=int(sys.argv[1])) as end, end.makefile("rw") as channel:
        request = _serve(channel)
    if request is not None:
        _become(request)
        _leave(main())


if __name__ == "__main__":
    _main()
