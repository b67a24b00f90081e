"""The base settings of each kind of part: what a registered settings class extends.

What they declare says, without torch, which parts go together; `config/checks.py` refuses a combination that can't work
before anything slow. Data *provides* one kind of input, perhaps with a *target*; a model and a task *consume* some:

    text        windows of a long stream of tokens; the targets are the tokens themselves
    sentences   texts of different lengths, each with a target
    pairs       a source text and a target text
    images      (C, H, W), each with a target
    vectors     (F,), each with a target

A target is one of `classes` or `values`. A task *needs* one kind of feature, which the model must *give*:

    causal          a vector per position that has seen the tokens up to it
    bidirectional   a vector per position that has seen the whole text
    pooled          a vector per sample
    decoder         a vector per position of the target that has seen the source, and the target up to it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.settings import Invalid, setting


@dataclass
class ModelConfig:
    """Settings of a backbone."""

    consumes: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False
    counts: ClassVar[bool] = False  # what it knows is counted in the training split, not learnt by gradients

    def gives(self) -> tuple[str, ...]:
        """Kinds of feature; by default, what reads text is a causal language model."""
        return ("causal", "pooled") if "text" in self.consumes else ("pooled",)


class Audit(Enum):
    """What becomes of a training whose data the audit finds fault with."""

    off = "off"
    warn = "warn"
    fail = "fail"


@dataclass
class DataConfig:
    """Settings of a data module."""

    provides: ClassVar[str] = ""
    target: ClassVar[str] = ""

    audit: Audit = setting(
        Audit.warn,
        "Before training, look for samples of val and test that stand in train, and the like: warn of them; "
        "fail: don't train when more than audit_limit do; off: don't look.",
    )
    audit_limit: float = setting(
        0.01, "Share of val or test that may stand in train before the audit fails.", at_least=0, at_most=1
    )
    audit_similarity: float = setting(
        0.7,
        "For bigtrain check-data: texts are nearly the same that share so much of their 5-grams of characters.",
        at_least=0.5,
        at_most=1,
    )

    def problems(self) -> list[Invalid]:
        """Rules across fields; a class adds its own to those of `super()`."""
        return []


@dataclass
class TaskConfig:
    """Settings of a task."""

    consumes: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    primary_metric: ClassVar[str] = "loss"  # compared to choose the best checkpoint
    higher_is_better: ClassVar[bool] = False
    meets_optimum: ClassVar[bool] = True  # whether the data's `optimal_loss`, if known, is of this task's loss
    measures: ClassVar[tuple[str, ...]] = ()  # names of its metrics, some of them of some data only; () if not said

    def while_training(self, metric: str) -> str:
        """The metric that stands for one of the end of a run while it still trains; as a rule the same."""
        return metric


@dataclass
class OptimizerConfig:
    """Settings of an optimizer."""


@dataclass
class SchedulerConfig:
    """Settings of a learning-rate schedule."""

    needs_total_steps: ClassVar[bool] = True

    extend: bool = setting(
        False,
        "Only with resume= and a longer trainer.max_duration: lay the learning rate out again for the longer training. "
        "It rises back to the peak and falls once more; wsd goes back to its last checkpoint before the decay.",
        before=False,
    )

    def stable_steps(self, warmup_steps: int, total_steps: int) -> int | None:
        """Steps in which the rate is that of any longer training; None where all depend on how long it is."""
        return None
