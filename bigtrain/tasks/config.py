"""Settings of every task; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import TaskConfig
from bigtrain.registry import TASKS


@dataclass
class LanguageModelingConfig(TaskConfig):
    """Predict the next token."""

    consumes: ClassVar[tuple[str, ...]] = ("text",)


@dataclass
class ClassificationConfig(TaskConfig):
    """Predict the class of each sample."""

    consumes: ClassVar[tuple[str, ...]] = ("images",)


TASKS.register("language_modeling", LanguageModelingConfig, factory="bigtrain.tasks.language_modeling:LanguageModeling")
TASKS.register("classification", ClassificationConfig, factory="bigtrain.tasks.classification:Classification")
