"""Starting ranks on this machine through torch's elastic agent, forwarding signals to them, and their exit code.

The agent only starts and monitors: signals and restarts are handled here. A signal asks the ranks to save and stop,
without a time limit (the agent would kill them after 30 s). Only ranks that were killed from outside are restarted: one
that raised an error would raise it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bigtrain.errors import ExitCode

RANK_LOST = 71  # exit code of a rank that failed because another one was gone: not the cause
LAUNCHED = "BIGTRAIN_LAUNCHED"  # environment variable of started processes: the process id of their launcher
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_GRACE_SECONDS = 5.0  # for the other ranks to exit after one has failed, before they are killed; the agent: 30


def launch(
    words: Sequence[str], ranks: int, max_restarts: int, words_to_go_on: Callable[[], Sequence[str]], **variables: str
) -> int:
    """Trains in `ranks` processes of `bigtrain train WORDS`; returns the exit code of the command.

    Ranks that are killed are started again, up to `max_restarts` times, with `words_to_go_on()`. `variables` are
    added to their environment.
    """
    variables |= {LAUNCHED: str(os.getpid()), "OMP_NUM_THREADS": str(threads_per_rank(ranks))}
    from bigtrain.tracking.memory import out_of_memory_kills  # imports torch, which a sweep's launcher does without

    kills = out_of_memory_kills()
    with _set(variables):
        for restarts in range(max_restarts + 1):
            attempt = _Ranks(words, ranks)
            code = attempt.run()
            if code >= 0 or attempt.asked_to_stop:
                return 128 - code if code < 0 else code
            killer = signal.Signals(-code).name
            if restarts < max_restarts:
                _say(f"a rank was killed by {killer}; starting again, {restarts + 1}/{max_restarts}")
                words = words_to_go_on()
    if out_of_memory_kills() > kills:
        _say("error[MEMORY]: a rank was killed by the kernel: the memory limit of this job or container was reached")
        _say(
            "  fix:   ask for more, or go on with resume= and trainer.activation_checkpointing=full or a smaller "
            "trainer.micro_batch_size"
        )
        return ExitCode.ENVIRONMENT
    _say(f"error[RANK-KILLED]: a rank was killed by {killer}")
    hint = f"all {max_restarts} restarts are used" if max_restarts else "trainer.max_restarts=N starts it again"
    _say(f"  fix:   go on with resume=; {hint}")
    return ExitCode.ENVIRONMENT


def threads_per_rank(ranks: int) -> int:
    """The user's OMP_NUM_THREADS, or an equal share of the cores: more threads than cores are several times slower."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, available_cores() // ranks)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_launcher() -> bool:
    """Whether `launch` or a sweep's launcher started this process.

    When that launcher is killed, this process gets SIGTERM, and so saves and stops (Linux only).
    """
    launcher = os.environ.pop(LAUNCHED, "")  # so that its own child processes don't see it
    if launcher and sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != int(launcher):  # it was killed before
            os.kill(os.getpid(), signal.SIGTERM)
    return bool(launcher)


class _Ranks:
    """One attempt: the elastic agent and its ranks."""

    def __init__(self, words: Sequence[str], ranks: int):
        self.asked_to_stop = False
        self._undelivered: list[int] = []  # signals received before a rank was started
        self._agent = _make_agent(words, ranks)
        self._ended: set[int] = set()  # process ids of ranks killed here

    def run(self) -> int:
        """Waits for the ranks; the exit code of the first that failed, or minus the signal that killed it."""
        over = threading.Event()
        threading.Thread(target=self._monitor, args=(over,), daemon=True).start()
        with self._passing_signals():
            result = self._agent.run()
        over.set()
        # Ends its thread here: collected as garbage while that runs, it would join itself, and say so with a traceback.
        self._agent.get_worker_group().spec.rdzv_handler.shutdown()
        if not result.is_failed():
            return ExitCode.OK
        # The agent sends SIGTERM to the others once one has failed: their exit codes are not the cause.
        failures = sorted(result.failures.values(), key=lambda failure: failure.timestamp)
        codes = [failure.exitcode for failure in failures if failure.pid not in self._ended]
        causes = [code for code in codes if code not in (RANK_LOST, -signal.SIGTERM)]
        if not causes and RANK_LOST not in codes:
            causes = codes
        return causes[0] if causes else ExitCode.ENVIRONMENT

    @contextlib.contextmanager
    def _passing_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _monitor(self, over: threading.Event) -> None:
        """Delivers early signals; kills ranks that still run some seconds after another one has failed."""
        first_failure = None
        while not over.wait(0.1):
            pids = self._pids()
            while pids and self._undelivered:
                self._send(self._undelivered.pop(0))
            codes = self._exit_codes()
            if not any(codes.values()):  # no rank has failed
                continue
            first_failure = first_failure or time.monotonic()
            living = [pid for pid, code in codes.items() if code is None]
            if living and time.monotonic() - first_failure > _GRACE_SECONDS:
                self._ended.update(living)
                for pid in living:
                    _kill(pid, signal.SIGKILL)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True
        if self._pids():
            self._send(number)
        else:
            self._undelivered.append(number)

    def _send(self, number: int) -> None:
        for pid in self._pids():
            _kill(pid, number)

    def _pids(self) -> list[int]:
        return [worker.id for worker in self._agent.get_worker_group().workers if worker.id]

    def _exit_codes(self) -> dict[int, int | None]:
        """Process id → exit code, None while it runs: as the agent, which reaps the processes, last saw it."""
        context = getattr(self._agent, "_pcontext", None)
        processes = [handler.proc for handler in context.subprocess_handlers.values()] if context else []
        return {process.pid: process.returncode for process in processes}


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _make_agent(words: Sequence[str], ranks: int) -> Any:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks say what went wrong
    # The agent would raise on the signals that are handled here: it gets SIGQUIT only.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # `python -m` puts the current folder in front of all packages, which the installed command does not.
    safe_path = [] if str(Path.cwd()) in sys.path else ["-P"]
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint="127.0.0.1:0",
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",
    )
    spec = WorkerSpec(
        role="rank",
        local_world_size=ranks,
        entrypoint=sys.executable,
        args=(*safe_path, "-m", "bigtrain", "train", *words),
        rdzv_handler=get_rendezvous_handler(meeting),
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="127.0.0.1",
    )
    return LocalElasticAgent(spec=spec, logs_specs=DefaultLogsSpecs(log_dir=os.devnull), start_method="spawn")


@contextlib.contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _say(sentence: str) -> None:
    print(f"bigtrain: {sentence}", file=sys.stderr, flush=True)
