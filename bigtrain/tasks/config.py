"""Settings of every task; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import TaskConfig
from bigtrain.config.settings import setting
from bigtrain.config.watched import GREEDY
from bigtrain.registry import TASKS


@dataclass
class SmoothedTaskConfig(TaskConfig):
    """Settings of tasks with a cross entropy over classes."""

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
    measures: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte", "excess")
    of_any_tokenizer: ClassVar[Mapping[str, str]] = {"bits_per_byte": "bits per byte"}


@dataclass
class MaskedLanguageModelingConfig(TaskConfig):
    """Guess hidden tokens (arXiv:1810.04805)."""

    consumes: ClassVar[tuple[str, ...]] = ("text", "sentences")
    needs: ClassVar[str] = "bidirectional"
    meets_optimum: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = (
        "loss",
        "masked_accuracy",
        "perplexity",
        "masked_language_model",
        "next_sentence",
        "next_sentence_accuracy",
    )

    mask_rate: float = setting(
        0.15,
        "Share of the tokens to guess; of those, 80 % are masked, 10 % replaced by any token, 10 % left as they are.",
        above=0,
        at_most=1,
    )
    whole_word: bool = setting(False, "Hide all tokens of a word together.")
    next_sentence: bool = setting(
        False, "Also tell whether the second half of a window follows the first, or comes from another window."
    )


@dataclass
class ClassificationConfig(SmoothedTaskConfig):
    """Predict the class of each sample."""

    consumes: ClassVar[tuple[str, ...]] = ("images", "vectors", "sentences")
    target: ClassVar[str] = "classes"
    needs: ClassVar[str] = "pooled"
    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "macro_f1", "top5_accuracy", "excess")
    per_token: ClassVar[bool] = False


@dataclass
class RegressionConfig(TaskConfig):
    """Predict the values of each sample."""

    consumes: ClassVar[tuple[str, ...]] = ("images", "vectors", "sentences")
    target: ClassVar[str] = "values"
    needs: ClassVar[str] = "pooled"
    measures: ClassVar[tuple[str, ...]] = ("loss", "mse", "mae", "r2", "excess")
    per_token: ClassVar[bool] = False


class Generate(Enum):
    """How targets are written while a run still trains."""

    none = "none"
    greedy = "greedy"
    beam = "beam"


@dataclass
class Seq2SeqTaskConfig(SmoothedTaskConfig):
    """Predict a target text from a source text."""

    consumes: ClassVar[tuple[str, ...]] = ("pairs",)
    needs: ClassVar[str] = "decoder"
    measures: ClassVar[tuple[str, ...]] = (
        "loss",
        "perplexity",
        "token_accuracy",
        "bleu",
        "chrf",
        "exact_match",
        "excess",
    )
    of_any_tokenizer: ClassVar[Mapping[str, str]] = {"bleu": "BLEU", "chrf": "chrF", "exact_match": "exact matches"}

    generate: Generate = setting(
        Generate.greedy,
        "How validation targets are written and scored during training: greedy (one beam; val/greedy_bleu and the "
        "like), beam, or none, which saves the time. At the end, and in bigtrain eval, it is always beam (val/bleu).",
    )
    num_beams: int = setting(5, "Beams of the search.", at_least=1)
    length_penalty: float = setting(
        0.6,
        "Exponent: targets are compared by log P / ((5 + tokens) / 6)^length_penalty (arXiv:1609.08144); more makes "
        "them longer.",
        at_least=0,
    )
    max_length_factor: float = setting(
        2.0, "Most tokens of a written target, as a multiple of its source's; 10 are added.", above=0
    )

    def while_training(self, metric: str) -> str:
        """greedy_bleu for bleu, where one beam writes during training and several at the end."""
        greedy = self.generate is Generate.greedy and self.num_beams > 1 and metric in ("bleu", "chrf", "exact_match")
        return GREEDY + metric if greedy else metric


TASKS.register("language_modeling", LanguageModelingConfig, factory="bigtrain.tasks.language_modeling:LanguageModeling")
TASKS.register("masked_lm", MaskedLanguageModelingConfig, factory="bigtrain.tasks.masked_lm:MaskedLanguageModeling")
TASKS.register("classification", ClassificationConfig, factory="bigtrain.tasks.classification:Classification")
TASKS.register("regression", RegressionConfig, factory="bigtrain.tasks.regression:Regression")
TASKS.register("seq2seq", Seq2SeqTaskConfig, factory="bigtrain.tasks.seq2seq:Seq2Seq")
