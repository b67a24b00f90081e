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

What is read of any part of a kind has a value here. A ClassVar is a fact about the class; a property is a setting that
some classes have: a class that declares a setting of that name replaces it, and for the others it says what holds. So
neither is shown as a setting, nor saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, ClassVar, Self

from bigtrain.config.settings import Invalid, setting

# Where data has settings of these names, they are the user's files, and hold: every split, or one of them.
_PATHS = {"path": "all", "train_path": "train", "val_path": "val", "test_path": "test"}


@dataclass
class ModelConfig:
    """Settings of a backbone."""

    consumes: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = ""  # a model reads inputs, whatever their target
    generates: ClassVar[bool] = False  # text, token by token: its backbone has `initial_state`
    counts: ClassVar[bool] = False  # what it knows is counted in the training split, not learnt by gradients
    masks_documents: ClassVar[bool] = False  # its attention can stay within each document of a window

    @property
    def max_length(self) -> int | None:
        """Positions that exist; None: no limit."""
        return None

    @property
    def tie_embeddings(self) -> bool:
        """Whether a head over the vocabulary shares the weight of `token_embedding`."""
        return False

    @property
    def num_embeddings(self) -> int | None:
        """Rows of that head; None: one for each token."""
        return None

    @property
    def init_std(self) -> float | None:
        """Standard deviation of its initial weights; None: as the head has it."""
        return None

    @property
    def logit_softcap(self) -> float | None:
        """c, where its logits are c * tanh(logits / c)."""
        return None

    @property
    def norm_epsilon(self) -> float:
        """Added to the variance in the norms of heads."""
        return 1e-12

    def gives(self) -> tuple[str, ...]:
        """Kinds of feature; by default, what reads text is a causal language model."""
        return ("causal", "pooled") if "text" in self.consumes else ("pooled",)


class Audit(Enum):
    """What a training does about the audit of its data."""

    off = "off"
    warn = "warn"
    fail = "fail"


@dataclass
class DataConfig:
    """Settings of a data module."""

    provides: ClassVar[str] = ""
    target: ClassVar[str] = ""

    @property
    def sequence_length(self) -> int | None:
        """Tokens T that the model sees at once; None: no tokens, or as many as there are."""
        return None

    @property
    def attend_across_documents(self) -> bool:
        """Whether a token sees the documents before its own in a window."""
        return True

    @property
    def tokenizer_path(self) -> str | None:
        """The tokenizer.json that makes its tokens; None: no file."""
        return None

    @property
    def cache_dir(self) -> str | None:
        """Where what is prepared is kept; None: the user's cache folder."""
        return None

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

    def files(self) -> dict[str, str]:
        """The paths that were given, by what each holds: all splits, or train, val or test."""
        given = {holds: getattr(self, name) for name, holds in self._paths().items()}
        return {holds: path for holds, path in given.items() if path}

    def at(self, path: str, holds: str = "all") -> Self:
        """The same settings for this path alone, which holds all splits, or the one named."""
        changes: dict[str, Any] = {name: path if each == holds else None for name, each in self._paths().items()}
        return replace(self, **changes)

    def as_test_split(self, path: str) -> Self | None:
        """The same settings for a file that is one split, measured as a whole; None where it holds every split."""
        return None

    def with_labels(self, labels: Sequence[str]) -> Self:
        """With the classes in this order, whichever of them occur; unchanged where the data itself decides it."""
        return self

    def with_tokenizer(self, path: str) -> Self:
        """With the tokenizer in this file; unchanged where the data has none, or one of its own."""
        return self

    def _paths(self) -> dict[str, str]:
        known = {field.name for field in fields(self)}
        return {name: holds for name, holds in _PATHS.items() if name in known}


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
    per_token: ClassVar[bool] = True  # whether its targets are tokens, so that its loss depends on the tokenizer
    of_any_tokenizer: ClassVar[Mapping[str, str]] = {}  # metrics that do not, and what users call them

    def while_training(self, metric: str) -> str:
        """The metric that stands for one of the end of a run while it still trains; as a rule the same."""
        return metric


@dataclass
class OptimizerConfig:
    """Settings of an optimizer."""

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        return 1e-3


@dataclass
class SchedulerConfig:
    """Settings of a learning-rate schedule."""

    needs_total_steps: ClassVar[bool] = True

    @property
    def warmup(self) -> str:
        """Length of a rise from 0 before the schedule begins."""
        return "0step"

    @property
    def decay_fraction(self) -> float:
        """Length of a decay at the end, as a fraction of the whole training, that must not overlap the warm-up."""
        return 0.0

    extend: bool = setting(
        False,
        "Only with resume= and a longer trainer.max_duration: lay the learning rate out again for the longer training. "
        "It rises back to the peak and falls once more; wsd goes back to its last checkpoint before the decay.",
        before=False,
    )

    def stable_steps(self, warmup_steps: int, total_steps: int) -> int | None:
        """Steps in which the rate is that of any longer training; None where all depend on how long it is."""
        return None
