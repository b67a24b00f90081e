"""Settings of synthetic data; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.registry import DATA

MORE_SAMPLES = {"train": "raise data.train_samples", **dict.fromkeys(("val", "test"), "raise data.eval_samples")}
"""Split → what mends it where a class has no sample there."""


@dataclass
class MarkovConfig(DataConfig):
    """Text from a random Markov chain whose entropy rate, hence the best possible loss, is known."""

    provides: ClassVar[str] = "text"

    vocab_size: int = setting(8, "Symbols V.", at_least=2, at_most=4096)
    order: int = setting(2, "Symbols of context k that decide the next one.", at_least=1, at_most=8)
    concentration: float = setting(
        0.5, "Dirichlet concentration of each row; small: nearly certain.", at_least=1e-3, at_most=1e6
    )
    sequence_length: int = setting(64, "Tokens T that the model sees at once.", at_least=2)
    train_tokens: int = setting(4_000_000, "Length of the training stream, in tokens.", at_least=1)
    eval_tokens: int = setting(
        400_000, "Length of the validation stream and of the test stream, in tokens.", at_least=1
    )
    chain_seed: int = setting(
        0, "Seed of the chain and of its streams (the run's seed leaves the data alone).", at_least=0
    )

    def problems(self) -> list[Invalid]:
        found = []
        if self.vocab_size ** (self.order + 1) > 1 << 24:
            found.append(
                Invalid(
                    "order",
                    f"is {self.order}: vocab_size ** (order + 1) = {self.vocab_size ** (self.order + 1):,} "
                    f"probabilities; at most {1 << 24:,} fit",
                )
            )
        if self.sequence_length < self.order:
            sentence = f"is {self.sequence_length}; it must be at least order={self.order}"
            found.append(Invalid("sequence_length", sentence))
        if min(self.train_tokens, self.eval_tokens) <= self.sequence_length:
            found.append(Invalid("train_tokens", "and eval_tokens must be longer than sequence_length"))
        return found


@dataclass
class CopyConfig(DataConfig):
    """Random symbols, a separator, and a noisy copy to predict: needs attention; the best possible loss is known."""

    provides: ClassVar[str] = "text"

    vocab_size: int = setting(17, "Symbols V, the separator among them.", at_least=3, at_most=27)
    sequence_length: int = setting(
        32,
        "Tokens T that the model sees at once: T/2 symbols, the separator, all but the last of the copy.",
        at_least=2,
    )
    noise: float = setting(
        0.1,
        "Probability that a copied symbol is replaced by one drawn uniformly, itself included.",
        at_least=0,
        at_most=1,
    )
    train_samples: int = setting(100_000, "Training windows.", at_least=1)
    eval_samples: int = setting(10_000, "Windows for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)

    def problems(self) -> list[Invalid]:
        if self.sequence_length % 2:
            sentence = f"is {self.sequence_length}; string and copy are equally long, so it must be even"
            return [Invalid("sequence_length", sentence)]
        return []


@dataclass
class GaussianMixtureConfig(DataConfig):
    """Vectors from Gaussian classes, all equally likely: the accuracy and the loss of Bayes' rule are known."""

    provides: ClassVar[str] = "vectors"
    target: ClassVar[str] = "classes"

    features: int = setting(2, "Length F of each vector; of two features a map of the decisions is drawn.", at_least=1)
    classes: int = setting(4, "Gaussian classes C.", at_least=2)
    separation: float = setting(
        4.0, "Mean distance between the means of two classes, in standard deviations.", at_least=0, at_most=1e3
    )
    shared_covariance: bool = setting(
        False, "One covariance for all classes: borders are straight. Otherwise each class has its own."
    )
    train_samples: int = setting(20_000, "Training vectors.", at_least=1)
    eval_samples: int = setting(10_000, "Vectors for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)

    def problems(self) -> list[Invalid]:
        found = []
        if self.classes * self.features**2 > 1 << 18:
            found.append(
                Invalid(
                    "features",
                    f"is {self.features}: classes * features ** 2 = {self.classes * self.features**2:,} "
                    f"covariances; at most {1 << 18:,} are sampled in seconds",
                )
            )
        return found


@dataclass
class RandomLabelsConfig(DataConfig):
    """Images of noise with labels unrelated to them: all learning is memorisation (arXiv:1611.03530)."""

    provides: ClassVar[str] = "images"
    target: ClassVar[str] = "classes"

    classes: int = setting(
        10, "Classes C, all equally likely; no model can do better than ln C.", at_least=2, at_most=256
    )
    size: int = setting(16, "Height and width of each image, in pixels.", at_least=1, at_most=1024)
    train_samples: int = setting(1_000, "Training images: few enough to memorise.", at_least=1)
    eval_samples: int = setting(5_000, "Images for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)


@dataclass
class LinearValuesConfig(DataConfig):
    """Vectors with values that are a noisy linear map of them: the best possible error and R² are known."""

    provides: ClassVar[str] = "vectors"
    target: ClassVar[str] = "values"

    features: int = setting(8, "Length F of each vector.", at_least=1, at_most=4096)
    values: int = setting(2, "Values K to predict, each in a unit of its own.", at_least=1, at_most=256)
    noise: float = setting(
        0.5,
        "Standard deviation of what can't be predicted, of what can it is 1: the best R² is 1 / (1 + noise ** 2).",
        at_least=0,
        at_most=1e3,
    )
    curved: bool = setting(False, "The map is one of the features' sines, which a linear model can only approach.")
    train_samples: int = setting(20_000, "Training vectors.", at_least=1)
    eval_samples: int = setting(10_000, "Vectors for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)


@dataclass
class DisksConfig(DataConfig):
    """Images of a disk on a noisy ground: predict its centre and radius; the best possible error is known."""

    provides: ClassVar[str] = "images"
    target: ClassVar[str] = "values"

    size: int = setting(16, "Height and width of each image, in pixels.", at_least=8, at_most=256)
    noise: float = setting(0.5, "Standard deviation of the noise on the three values, in pixels.", at_least=0)
    train_samples: int = setting(10_000, "Training images.", at_least=1)
    eval_samples: int = setting(5_000, "Images for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)


class StringFunction(Enum):
    """What is done to a string."""

    reverse = "reverse"
    sort = "sort"
    addition = "addition"


@dataclass
class StringPairsConfig(DataConfig):
    """Random strings, and the same strings reversed or sorted; or sums and their results. No loss need be left."""

    provides: ClassVar[str] = "pairs"

    function: StringFunction = setting(StringFunction.reverse, "reverse, sort, or addition: 12+345= gives 357.")
    longest: int = setting(20, "Letters of the longest string, or digits of the longest number.", at_least=2)
    letters: int = setting(26, "Different letters; without effect on addition.", at_least=2, at_most=26)
    train_samples: int = setting(100_000, "Training pairs.", at_least=1)
    eval_samples: int = setting(2_000, "Pairs for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)

    def problems(self) -> list[Invalid]:
        strings = 100 ** (self.longest // 2 + 1) if self.function is StringFunction.addition else 0
        strings = strings or self.letters ** (self.longest // 2 + 1)
        if strings < 20 * self.eval_samples:
            sentence = f"is {self.eval_samples}: strings of longest={self.longest} are too few for so many"
            return [Invalid("eval_samples", sentence)]
        return []


DATA.register("markov", MarkovConfig, factory="bigtrain.data.synthetic.markov:Markov")
DATA.register("copy", CopyConfig, factory="bigtrain.data.synthetic.copy:NoisyCopy")
DATA.register(
    "gaussian_mixture", GaussianMixtureConfig, factory="bigtrain.data.synthetic.gaussian_mixture:GaussianMixture"
)
DATA.register("random_labels", RandomLabelsConfig, factory="bigtrain.data.synthetic.random_labels:RandomLabels")
DATA.register("linear", LinearValuesConfig, factory="bigtrain.data.synthetic.linear:LinearValues")
DATA.register("disks", DisksConfig, factory="bigtrain.data.synthetic.disks:Disks")
DATA.register("string_pairs", StringPairsConfig, factory="bigtrain.data.synthetic.string_pairs:StringPairs")
