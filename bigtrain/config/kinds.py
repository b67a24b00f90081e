"""The base settings of each kind of part: what a registered settings class extends.

The class variables say, without torch, which parts go together: data *provides* one kind of sample, a task
and a model *consume* some kinds. `config/checks.py` refuses a combination that can't work before anything
slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class ModelConfig:
    """Settings of a backbone."""

    consumes: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False


@dataclass
class DataConfig:
    """Settings of a data module."""

    provides: ClassVar[str] = ""


@dataclass
class TaskConfig:
    """Settings of a task."""

    consumes: ClassVar[tuple[str, ...]] = ()


@dataclass
class OptimizerConfig:
    """Settings of an optimizer."""


@dataclass
class SchedulerConfig:
    """Settings of a learning-rate schedule."""

    needs_total_steps: ClassVar[bool] = True
