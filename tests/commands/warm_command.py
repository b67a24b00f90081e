"""`bigtrain` with its imports done once: a server that forks a process for each command line it is given.

Each is a process of its own, with its words, folder, environment, streams, signals and exit code; so are the ranks and
the jobs of a sweep that it starts. What this does not show is how an interpreter starts and gets to `bigtrain`: a few
tests start the installed command for that (`Shell(..., installed=True)`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import inspect
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import lru_cache
from pathlib import Path

_TIMEOUT_SECONDS = 200
_USED = ("torch.utils.tensorboard", "torch._dynamo", "matplotlib.pyplot", "rich.live", "tokenizers", "optuna")
_USED += ("torch.distributed.elastic.agent.server.local_elastic_agent",)
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "KMP_", "LANG", "LC_", "MPL")  # by an interpreter and by its imports


def run(words, folder, stdin="", environment=None):
    """A `CompletedProcess`, as `subprocess.run` gives it, of `bigtrain` with these words, in today's environment."""
    process = start(words, folder, stdin, environment)
    try:
        output, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def start(words, folder, stdin="", environment=None, start_new_session=False):
    """A `Process` of `bigtrain` with these words."""
    environment = dict(os.environ if environment is None else environment)
    environment.pop("PYTEST_CURRENT_TEST", None)
    streams = tempfile.TemporaryDirectory()
    (Path(streams.name) / "0").write_text(stdin)
    request = {"words": [str(word) for word in words], "folder": str(folder), "streams": streams.name}
    request |= {"environment": environment, "start_new_session": start_new_session}
    try:
        pid = _server_for(_at_start(environment)).ask(request)
    except BrokenPipeError:  # a signal that was meant for one of its processes has ended the server
        _server_for.cache_clear()
        pid = _server_for(_at_start(environment)).ask(request)
    return Process(words, pid, streams)


class Process:
    """What `subprocess.Popen` is for a program. Its output is there once it has ended."""

    def __init__(self, args, pid, streams):
        self.args = args
        self.pid = pid
        self.returncode = None
        self._streams = streams

    def poll(self):
        """The exit code, minus a signal's number, or None while it runs."""
        if self.returncode is None and (code := Path(self._streams.name) / "code").exists():
            self.returncode = int(code.read_text())
        return self.returncode

    def wait(self, timeout=None):
        """The exit code; raises TimeoutExpired."""
        deadline = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.003)
        return self.returncode

    def communicate(self, timeout=None):
        """All of its output and of its errors, when it has ended."""
        self.wait(timeout)
        output, errors = ((Path(self._streams.name) / name).read_text() for name in "12")
        return output, errors

    def send_signal(self, number):
        """As os.kill does, while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _at_start(environment):
    """What a server has to be started with. Folders of packages are added later, unless they hold another bigtrain."""
    found = {key: value for key, value in environment.items() if key.startswith(_READ_AT_START)}
    if not any((Path(folder) / "bigtrain").is_dir() for folder in found.get("PYTHONPATH", "").split(os.pathsep)):
        found.pop("PYTHONPATH", None)
    return tuple(sorted(found.items()))


@lru_cache(maxsize=4)
def _server_for(at_start):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_READ_AT_START)}
    return _Server(kept | dict(at_start))


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
        here.settimeout(_TIMEOUT_SECONDS)
        self._channel = here.makefile("rw")

    def ask(self, request):
        """The process id of a new command."""
        print(json.dumps(request), file=self._channel, flush=True)
        return int(self._channel.readline())


def _serve(channel):
    """Forks for every request; returns it in the new process, and None in this one when there are no more.

    When a process has ended, its exit code is put into the folder of its streams.
    """
    running = {}

    def take_down(*_):
        for pid, streams in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                with contextlib.suppress(FileNotFoundError):  # nobody has waited for it
                    (streams / "ended").write_text(str(os.waitstatus_to_exitcode(status)))
                    (streams / "ended").rename(streams / "code")

    signal.signal(signal.SIGCHLD, take_down)
    for line in channel:
        request = json.loads(line)
        # It may end before it is known here: the signal of its end waits so long.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        else:
            running[pid] = Path(request["streams"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if pid == 0:
            return request
        print(pid, file=channel, flush=True)
    return None


def _become(request):
    """This process goes on as the installed command would."""
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["folder"])
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        descriptor = os.open(Path(request["streams"]) / str(number), flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    _take_environment(request["environment"])
    sys.argv = [str(Path(sys.executable).with_name("bigtrain")), *request["words"]]
    subprocess.Popen._execute_child = _forking(subprocess.Popen._execute_child)


def _take_environment(environment):
    os.environ.clear()
    os.environ.update(environment)
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in folders if folder and folder not in sys.path]
    importlib.invalidate_caches()


def _forking(execute):
    """Instead of Popen's way from words to a process: `python -m bigtrain` (ranks, jobs) is forked, not started."""

    def fork_or_execute(self, *given):
        known = inspect.signature(execute).bind(self, *given).arguments
        words = [] if isinstance(known["args"], str) else [word for word in known["args"] if word != "-P"]
        if words[:3] != [sys.executable, "-m", "bigtrain"]:
            return execute(self, *given)
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.pid = os.fork()
        if self.pid == 0:
            _become_child(words[3:], known, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        return self._close_pipe_fds(*(known[name] for name in ends))

    return fork_or_execute


def _become_child(words, asked, mask):
    """As a program that Popen was `asked` for: with its streams and nothing else that the parent has open."""
    gc.freeze()  # what belongs to the parent is never taken apart
    atexit._clear()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if asked["start_new_session"]:
        os.setsid()
    for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        if asked[name] != -1:
            os.dup2(asked[name], number)
    os.closerange(3, 4096)
    if asked["env"] is not None:
        _take_environment(dict(asked["env"]))
    sys.argv = ["bigtrain", *words]
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _run_to_the_end()


def _run_to_the_end():
    """Runs the command and ends as an interpreter does, but for taking apart every module, which lasts a second."""
    from bigtrain.cli import main

    try:
        code = main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
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
    with socket.socket(fileno=int(sys.argv[1])) as end, end.makefile("rw") as channel:
        request = _serve(channel)
    if request is not None:
        _become(request)
        _run_to_the_end()


if __name__ == "__main__":
    _main()
