"""Settings of every task; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import TaskConfig
from bigtrain.config.settings import setting
from bigtrain.registry import TASKS


@dataclass
class SmoothedTaskConfig(TaskConfig):
    """What every task with a cross entropy over classes shares."""

    label_smoothing: float = setting(
        0.0,
        "Share of each training target that is spread over all classes (arXiv:1512.00567). In train/loss only: "
        "validation and test losses stay as they are, comparable with each other and with a known optimum.",
        at_least=0,
        below=1,
    )


@dataclass
class LanguageModelingConfig(SmoothedTaskConfig):
    """Predict the next token."""

    consumes: ClassVar[tuple[str, ...]] = ("text",)
    needs: ClassVar[str] = "causal"


@dataclass
class ClassificationConfig(SmoothedTaskConfig):
    """Predict the class of each sample."""

    consumes: ClassVar[tuple[str, ...]] = ("images", "vectors", "sentences")
    target: ClassVar[str] = "classes"
    needs: ClassVar[str] = "pooled"


TASKS.register("language_modeling", LanguageModelingConfig, factory="bigtrain.tasks.language_modeling:LanguageModeling")
TASKS.register("classification", ClassificationConfig, factory="bigtrain.tasks.classification:Classification")
