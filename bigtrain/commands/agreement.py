"""What the ranks of a run must have in common before it begins, and how an error of theirs is told."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from bigtrain import __version__
from bigtrain.config.compose import Composed
from bigtrain.config.saved import document_text
from bigtrain.distributed.launch import RANK_LOST
from bigtrain.distributed.meeting import RankLostError
from bigtrain.distributed.world import World, lost_ranks
from bigtrain.errors import ConfigError, MachineError

SECONDS_FOR_FILES = 30.0  # how long a network file system may take to show a new folder
_SECONDS_FOR_RANK_0 = 3.0
_SECONDS_FOR_THE_CAUSE = 1.0  # so that another launcher sees the rank that failed end before those that miss it


def require_same_settings(composed: Composed, world: World) -> None:
    """Raises where a rank has another version, or was given other settings, than rank 0."""
    versions = f"bigtrain {__version__} and torch {torch.__version__}"
    if versions != (other := world.broadcast(versions)):
        raise MachineError.of(
            "RANK-VERSIONS",
            f"rank {world.rank} runs {versions}, rank 0 {other}",
            cause="the machines have different installations",
            fix="start every rank from one environment on a shared file system, or install the same versions",
        )
    where = composed.resumed.run_dir.absolute() if composed.resumed else ""
    mine = hashlib.sha256(f"{where} {document_text(composed.document)}".encode()).hexdigest()
    if mine != world.broadcast(mine):
        raise ConfigError.of(
            "RANK-SETTINGS",
            f"rank {world.rank} was given other settings than rank 0",
            cause="the command line, the config files or resume= differ between the ranks",
            fix="give every rank the same words, and resume= the full path of a run",
        )


def require_shared_folder(run_dir: Path, world: World) -> None:
    """Raises MachineError where a rank does not see the run directory: every rank reads checkpoints of rank 0."""
    deadline = time.monotonic() + SECONDS_FOR_FILES
    while world.size > 1 and not run_dir.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = world.gather([float(run_dir.is_dir())])[:, 0]
    if not seen.all():
        raise MachineError.of(
            "RANK-FOLDER",
            f"not every rank sees {run_dir}: {', '.join(f'rank {rank}' for rank in (seen == 0).nonzero()[0])} does not",
            cause="ranks share one run directory, on a file system that all of them see, from one working folder",
            fix="give output_dir= a full path on a shared file system",
        )


@contextlib.contextmanager
def rank_errors(world: World, launched: bool) -> Iterator[None]:
    """An error on every rank is printed once: rank 0 prints first, and its launcher then ends the others.

    `launched`: whether that launcher is bigtrain's own.
    """
    if not world.is_main:
        warnings.simplefilter("ignore")
    try:
        with lost_ranks():
            yield
    except BaseException as error:
        if world.size == 1:
            raise
        lost = isinstance(error, RankLostError)
        if not world.is_main:
            time.sleep(_SECONDS_FOR_RANK_0 if launched or not lost else _SECONDS_FOR_THE_CAUSE)
            print(f"rank {world.rank}:", file=sys.stderr)
        if lost and launched:  # which then tells it apart from the cause
            print(error, file=sys.stderr, flush=True)
            raise SystemExit(RANK_LOST) from error
        raise
