"""Vectors from Gaussian classes, all equally likely, whose best possible accuracy and loss are known.

Class c is N(m_c, A_c A_cᵀ), A_c lower triangular of determinant 1: a random scale per feature, up to a factor of four
between the least and the greatest, and random correlations; with `shared_covariance` there is one A for all. The best
classifier answers by Bayes' rule, p(c|x) ∝ N(x; m_c, A_c A_cᵀ): its accuracy is E[max_c p(c|x)], and its cross entropy
is the expected entropy of p(·|x). For two classes of one covariance they follow from the distance Δ of the means in
standard deviations: Φ(Δ/2), and an integral over one normal variable (Fukunaga 1990, section 3.1). For others they are
means over a sample much larger than any split here, and their standard errors stand beside them in the DataSpec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import SPLITS, DataModule, Dataset, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.splits import warn_of_missing_classes
from bigtrain.data.synthetic.config import MORE_SAMPLES, GaussianMixtureConfig
from bigtrain.data.tokenizers.tokenizer import Tokenizer

_MIXTURE, _OPTIMUM = 0, 1  # seed domains beside the splits', which follow
_MOST_DRAWS, _LEAST_DRAWS = 500_000, 20_000
_WORK = 300_000_000  # about the operations that estimating the optimum may take: a second
_PER_CLASS = 16  # of them per vector and class, for exp and log
_BLOCK_NUMBERS = 1 << 22  # 32 MiB of float64 at once


class GaussianMixture(DataModule):
    """Data module `gaussian_mixture`; see `GaussianMixtureConfig`."""

    def __init__(self, config: GaussianMixtureConfig, tokenizer: Tokenizer | None = None):
        mixture = Mixture.drawn(config)
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        self._samples = {
            split: VectorSamples(*mixture.sample(size, np.random.default_rng([config.draw_seed, number])))
            for number, (split, size) in enumerate(sizes.items(), start=2)
        }
        arrays = [array for samples in self._samples.values() for array in (samples.vectors, samples.labels)]
        train = self._samples["train"].vectors
        std = train.std(axis=0, dtype=np.float64)
        optimum = two_class_optimum(mixture.distance()) if mixture.is_symmetric else mixture.estimated_optimum(config)
        names = tuple(map(str, range(config.classes)))
        warn_of_missing_classes(
            names, {split: samples.labels for split, samples in self._samples.items()}, MORE_SAMPLES
        )
        self.spec = DataSpec(
            kind="vectors",
            fingerprint=fingerprint_of("gaussian_mixture", mixture.means, mixture.factors, *arrays),
            sizes=sizes,
            input_shape=(config.features,),
            num_classes=config.classes,
            labels=names,
            normalization={
                "mean": train.mean(axis=0, dtype=np.float64).tolist(),
                "std": np.where(std > 0, std, 1.0).tolist(),
            },
            optimal_loss=optimum.loss,
            optimal_loss_error=optimum.loss_error,
            optimal_accuracy=optimum.accuracy,
            optimal_accuracy_error=optimum.accuracy_error,
        )

    def dataset(self, split: str) -> VectorSamples:
        return self._samples[split]


class VectorSamples(Dataset):
    """Vectors (N, F) float32 and labels (N,) int64; `gather` as in `data/base.py`."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray):
        self.vectors = vectors.astype(np.float32)
        self.labels: np.ndarray = labels

    def __len__(self) -> int:
        return len(self.vectors)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        return {"vectors": torch.from_numpy(self.vectors[ids]), "labels": torch.from_numpy(self.labels[ids])}


@dataclass(frozen=True)
class Optimum:
    """What Bayes' rule reaches, with standard errors where it is an estimate."""

    loss: float  # nats
    accuracy: float
    loss_error: float | None = None
    accuracy_error: float | None = None


@dataclass(frozen=True)
class Mixture:
    """`means` (C, F), and `factors` A_c: (C, F, F), or (1, F, F) where all classes share one."""

    means: np.ndarray
    factors: np.ndarray

    @classmethod
    def drawn(cls, config: GaussianMixtureConfig) -> Mixture:
        """A random mixture: the mean distance between two means is `separation`, in standard deviations."""
        generator = np.random.default_rng([config.draw_seed, _MIXTURE])
        count, size = config.classes, config.features
        means = generator.standard_normal((count, size))
        means *= config.separation / _mean_distance(means)
        mixing = generator.standard_normal((1 if config.shared_covariance else count, size, size)) / math.sqrt(size)
        octaves = generator.uniform(-1, 1, mixing.shape[:2])
        scales = 2.0 ** (octaves - octaves.mean(axis=1, keepdims=True))
        factors = scales[:, :, None] * (np.tril(mixing, -1) + np.eye(size))
        if config.shared_covariance:
            means = _times(means, factors[0])  # so distances are those in standard deviations
        return cls(means, factors)

    @property
    def is_symmetric(self) -> bool:
        """Whether there are two classes of one covariance: then the optimum has a formula."""
        return len(self.means) == 2 and len(self.factors) == 1

    def distance(self) -> float:
        """Δ between the first two means, in standard deviations of the first covariance."""
        return float(np.linalg.norm(np.linalg.solve(self.factors[0], self.means[1] - self.means[0])))

    def sample(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (count, F) float64 and their classes (count,) int64."""
        labels = generator.integers(len(self.means), size=count)
        vectors = generator.standard_normal((count, self.means.shape[1]))
        if len(self.factors) == 1:
            return _times(vectors, self.factors[0]) + self.means[labels], labels
        for label, factor in enumerate(self.factors):
            chosen = labels == label
            vectors[chosen] = _times(vectors[chosen], factor) + self.means[label]
        return vectors, labels

    def log_posterior(self, vectors: np.ndarray) -> np.ndarray:
        """log p(c|x), (N, C), by Bayes' rule with equal priors."""
        scores = np.empty((len(vectors), len(self.means)))
        for label, mean in enumerate(self.means):
            factor = self.factors[label % len(self.factors)]
            white = np.linalg.solve(factor, (vectors - mean).T)
            scores[:, label] = -0.5 * np.square(white).sum(axis=0) - np.linalg.slogdet(factor)[1]
        scores -= scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def estimated_optimum(self, config: GaussianMixtureConfig) -> Optimum:
        """Means over a large sample of the entropy of p(·|x) and of max_c p(c|x), with their standard errors.

        Both are functions of x alone, which vary less than the loss and the hit of a drawn class.
        """
        generator = np.random.default_rng([config.draw_seed, _OPTIMUM])
        classes, size = self.means.shape
        draws = min(max(_WORK // (classes * (size * size + _PER_CLASS)), _LEAST_DRAWS), _MOST_DRAWS)
        block = max(1, _BLOCK_NUMBERS // max(classes, size))
        values = []
        for start in range(0, draws, block):
            vectors, _ = self.sample(min(block, draws - start), generator)
            log_p = self.log_posterior(vectors)
            values.append(np.stack([-(np.exp(log_p) * log_p).sum(axis=1), np.exp(log_p.max(axis=1))]))
        both = np.concatenate(values, axis=1)
        (loss, accuracy), (loss_error, accuracy_error) = both.mean(axis=1), both.std(axis=1) / math.sqrt(draws)
        return Optimum(float(loss), float(accuracy), float(loss_error), float(accuracy_error))


def two_class_optimum(distance: float) -> Optimum:
    """Two equally likely Gaussians of one covariance whose means are `distance` standard deviations apart.

    The log odds of the right class are N(Δ²/2, Δ²); the loss is the expectation of ln(1 + exp(-odds)), by the
    trapezoidal rule, which for such an integrand is exact to rounding.
    """
    z = np.linspace(-12, 12, 4801)
    odds = distance * distance / 2 + distance * z
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    loss = float((np.logaddexp(0, -odds) * density).sum() * (z[1] - z[0]))
    return Optimum(loss, 0.5 * math.erfc(-distance / 2 / math.sqrt(2)))


def _times(vectors: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(N, F) · factorᵀ. Not by BLAS: its last bit may depend on the number of threads, and resuming needs the same."""
    return np.einsum("nf,gf->ng", vectors, factor)


def _mean_distance(points: np.ndarray) -> float:
    """Mean distance between two different points of (C, F)."""
    total = sum(float(np.linalg.norm(points[index + 1 :] - point, axis=1).sum()) for index, point in enumerate(points))
    return total / (len(points) * (len(points) - 1) / 2)
