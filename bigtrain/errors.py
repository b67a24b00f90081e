"""Errors that a user reads, and the exit code each one ends with.

Everything a user can cause is raised as a `BigtrainError`: a list of problems, each with a message, its cause and a
fix. `cli.main` prints them as one block on stderr and exits with the code. Anything else that reaches `cli.main` is a
bug of bigtrain: exit 70.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """Exit codes of the command; documented in docs/runs.md."""

    OK = 0
    USAGE = 2
    DATA = 3
    CHECKPOINT = 4
    ENVIRONMENT = 5
    NUMERICS = 6
    BUG = 70
    PREEMPTED = 75
    INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `code` is stable; `message`, `cause` and `fix` are sentences for the user.

    `word`: the word of the command line that it is about; `key`: the setting that it is about, dotted
    ("trainer.batch_size"). Empty where there is none.
    """

    code: str
    message: str
    cause: str = ""
    fix: str = ""
    word: str = ""
    key: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return printable("\n".join(lines))


class BigtrainError(Exception):
    """One problem or several, collected, that the user can mend."""

    exit_code = ExitCode.USAGE

    def __init__(self, *problems: Problem):
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    @classmethod
    def of(cls, code: str, message: str, *, cause: str = "", fix: str = "") -> Self:
        """The common case: one problem."""
        return cls(Problem(code, message, cause, fix))


class ConfigError(BigtrainError):
    """A key, value or combination of settings that can't be used."""


class PluginMissing(ConfigError):
    """A saved config has a part of a plug-in that is not on now."""


class DataError(BigtrainError):
    """Data that is missing, damaged, or not what the settings say."""

    exit_code = ExitCode.DATA


class CheckpointError(BigtrainError):
    """A checkpoint that is missing, damaged, or does not fit."""

    exit_code = ExitCode.CHECKPOINT


class MachineError(BigtrainError):
    """Disk, permission, lock or device: the machine can't do what was asked."""

    exit_code = ExitCode.ENVIRONMENT


class MemoryShortage(MachineError):
    """Memory of the host or of a GPU ran out."""


class NumericsError(BigtrainError):
    """The loss or a gradient stopped being finite."""

    exit_code = ExitCode.NUMERICS


_SIGNS_OF_SHORTAGE = (
    "can't allocate memory",  # PyTorch's allocator on a CPU
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out. PyTorch raises a RuntimeError of its own only for a GPU's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_SHORTAGE)


_UNSEEN = re.compile(r"(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with what a terminal would obey spelt out (\\x1b): control characters but for tabs and line ends, and what
    turns the direction of writing; and the bytes of a file name that are no text. They come from file names, from data,
    and from models that learnt them there.
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def nearest(word: str, choices: Iterable[str], limit: int = 3, alike: float = 0.6) -> list[str]:
    """Up to `limit` of `choices` that `word` may have been meant as, best first; `alike`: how much, from 0 to 1."""
    return difflib.get_close_matches(word, list(choices), n=limit, cutoff=alike)
