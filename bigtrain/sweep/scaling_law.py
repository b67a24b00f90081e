"""L(N, D) = E + A / N^alpha + B / D^beta: the loss of a model of N parameters after D tokens, fitted to measured runs.

Hoffmann et al. 2022 (arXiv:2203.15556), approach 3: the Huber loss of log L - log L(N, D), minimised from a grid of
starts. As Besiroglu et al. 2024 (arXiv:2404.10102) found of their fit, a mean of Huber losses lets an optimizer stop
early, and intervals come out too narrow: here the sum is minimised by damped Gauss-Newton steps until none helps, and
the intervals are checked for their coverage (tests/sweep/test_scaling_law.py). Pure functions of arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bigtrain.sweep.scaling import free_parameters

REPLICATES = 1000  # of the bootstrap
_LEAST_DELTA = 1e-3  # Hoffmann et al.'s delta of the Huber loss; with noise of sigma it is 1.345 sigma, if that is more
_HUBER = 1.345  # sigmas: 95 % of least squares' efficiency on normal noise (Huber 1964)
_EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the starts
_LEAST_EXPONENT, _LARGEST_EXPONENT = 1e-3, 5.0
_MANY = 3  # runs per parameter
_STEPS = 500
_GAIN = 1e-7  # of the objective, by one step, that counts as none
_MOST_DAMPING = 1e8
_SMALL = 1e-9  # a share of the loss that counts as none


class Law(NamedTuple):
    """E, A, alpha, B, beta. Without a term for size A is 0, without one for data B is. Floats, or arrays of equal shape
    for many laws at once."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: float | np.ndarray, tokens: float | np.ndarray) -> float | np.ndarray:
        """L(N, D) in the unit of the losses that it was fitted to (nat)."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta


class Cost(NamedTuple):
    """Training FLOPs of N parameters and D tokens: factor * N^exponent * D. 6 N D is Cost(6, 1)."""

    factor: float
    exponent: float


SIX_N_D = Cost(6.0, 1.0)
"""The custom (Kaplan et al. 2020, arXiv:2001.08361): a multiplication and an addition per weight and token, times 3."""


@dataclass(frozen=True)
class Runs:
    """Measured runs, float64 (n,): parameters N, training tokens D (samples, of data without tokens), final loss L."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    def without(self, left_out: np.ndarray) -> Runs:
        """Those where the mask (n,) is False."""
        return Runs(self.parameters[~left_out], self.tokens[~left_out], self.loss[~left_out])

    @property
    def sizes(self) -> int:
        """Different N."""
        return len(np.unique(self.parameters))

    @property
    def lengths(self) -> int:
        """Different D."""
        return len(np.unique(self.tokens))


@dataclass(frozen=True)
class Fitted:
    """`law` with its `replicates` (arrays), each fitted to another draw of the noise.

    `residuals` (n,): log L - log L(N, D). `free`: the fitted ones of E, A, alpha, B, beta.
    """

    law: Law
    free: tuple[str, ...]
    residuals: np.ndarray
    replicates: Law

    @property
    def noise(self) -> float:
        """Standard deviation of a run's log L around the law: about its relative error."""
        return math.sqrt(float(np.square(self.residuals).sum()) / (len(self.residuals) - len(self.free)))

    def new_runs(self, parameters: float, tokens: float, count: int, seed: int = 1) -> np.ndarray:
        """(REPLICATES,): what the mean loss of `count` runs that were not fitted may be, their own noise included."""
        generator = np.random.default_rng(seed)
        scale = self.noise / math.sqrt(count) * _doubt(generator, len(self.residuals) - len(self.free))
        expected = np.asarray(self.replicates.loss(parameters, tokens))
        return expected * np.exp(scale * generator.standard_normal(REPLICATES))


def fit(runs: Runs, known_E: float | None = None, seed: int = 0) -> Fitted:
    """The law with uncertainty. `known_E`: the irreducible loss, where it is known, instead of fitting it.

    The uncertainty is a bootstrap of residuals, not of runs: N and D are a design, and a grid without one of its rows
    tells less than the grid. Residuals are scaled by sqrt(n / nu), nu = n - fitted parameters, since fitting has made
    them smaller, and per replicate by sqrt(nu / chi2(nu)), since their size is itself estimated from few.
    Raises ValueError where the runs are too few (`free_parameters`).
    """
    free = free_parameters(runs.sizes, runs.lengths, len(runs), known_E is not None)
    if not free:
        raise ValueError(f"{len(runs)} runs of {runs.sizes} sizes and {runs.lengths} lengths tell no law")
    problem = _Problem.of(runs, free, known_E)
    target = np.log(runs.loss)
    starts = problem.starts(runs.loss)
    theta = _best(problem, starts, target, math.inf)
    left = len(runs) - len(free)
    # The first spread is that of least squares, which an outlier widens: hence a second one, of residuals that it has
    # not. Of few runs that one would be too small: Huber's loss lets the law pass through most of them.
    for _ in range(2 if len(runs) >= _MANY * len(free) else 1):
        residuals = target - problem.log_loss(theta[None])[0]
        spread = 1.4826 * float(np.median(np.abs(residuals))) * math.sqrt(len(runs) / left)
        delta = max(_LEAST_DELTA, _HUBER * spread)
        theta = _best(problem, np.vstack([theta, starts]), target, delta)
    fitted = problem.log_loss(theta[None])[0]
    residuals = target - fitted
    generator = np.random.default_rng(seed)
    drawn = generator.choice(residuals - residuals.mean(), (REPLICATES, len(runs)))
    drawn *= math.sqrt(len(runs) / left) * _doubt(generator, left)[:, None]
    replicates = _descend(problem, np.tile(theta, (REPLICATES, 1)), fitted + drawn, delta)[0]
    return Fitted(problem.law(theta), free, residuals, problem.law(replicates))


def _doubt(generator: np.random.Generator, left: int) -> np.ndarray:
    """(REPLICATES,): true spread of residuals over the one seen with `left` degrees of freedom, as drawn."""
    return np.sqrt(left / generator.chisquare(left, REPLICATES))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.percentile(values[np.isfinite(values)], (2.5, 97.5))
    return float(low), float(high)


def fit_cost(parameters: np.ndarray, tokens: np.ndarray, flops: np.ndarray) -> Cost | None:
    """FLOPs per token as a power law of N, by least squares of logarithms; None with one N, or where it does not grow.

    It grows slower than 6 N where attention and embeddings take a part, which small models feel most.
    """
    if len(np.unique(parameters)) < 2 or not (flops > 0).all():
        return None
    exponent, intercept = np.polyfit(np.log(parameters), np.log(flops / tokens), 1)
    return Cost(math.exp(intercept), float(exponent)) if exponent > 0 else None


def optimum(law: Law, cost: Cost, flops: float) -> tuple[float, float]:
    """(N, D) of the lowest loss that this many FLOPs buy; arrays for many laws.

    With C = k N^g D the derivative of L(N, C / (k N^g)) is zero where N^(alpha + g beta) = alpha A (C / k)^beta /
    (g beta B). With k = 6, g = 1 that is equation 4 of Hoffmann et al.
    """
    power = law.alpha + cost.exponent * law.beta
    log_n = np.log(law.alpha * law.A) - np.log(cost.exponent * law.beta * law.B)
    parameters = np.exp((log_n + law.beta * math.log(flops / cost.factor)) / power)
    return parameters, flops / (cost.factor * parameters**cost.exponent)


@dataclass(frozen=True)
class _Problem:
    """theta (K, 5) = log E, log A', alpha, log B', beta of K fits at once. A' and B' are the terms at the middle of the
    grid (`center`): there they depend least on their exponents."""

    size: np.ndarray  # log N - its mean
    length: np.ndarray
    center: tuple[float, float]
    low: np.ndarray  # bounds of theta; both are the same where a parameter is not fitted
    high: np.ndarray

    @classmethod
    def of(cls, runs: Runs, free: tuple[str, ...], known_E: float | None) -> _Problem:
        size, length = np.log(runs.parameters), np.log(runs.tokens)
        smallest, largest = math.log(runs.loss.min()), math.log(runs.loss.max())
        least = smallest + math.log(_SMALL)
        low = np.array([least, least, _LEAST_EXPONENT, least, _LEAST_EXPONENT])
        high = np.array([smallest, largest + 3, _LARGEST_EXPONENT, largest + 3, _LARGEST_EXPONENT])
        if known_E is not None:
            low[0] = high[0] = math.log(known_E) if known_E > 0 else -math.inf
        for place, name in ((1, "A"), (3, "B")):
            if name not in free:
                low[place] = high[place] = -math.inf
                low[place + 1] = high[place + 1] = 1.0
        return cls(size - size.mean(), length - length.mean(), (size.mean(), length.mean()), low, high)

    def law(self, theta: np.ndarray) -> Law:
        """theta (..., 5) → E, A, alpha, B, beta."""
        log_e, log_a, alpha, log_b, beta = np.moveaxis(theta, -1, 0)
        parts = (
            np.exp(log_e),
            np.exp(log_a + alpha * self.center[0]),
            alpha,
            np.exp(log_b + beta * self.center[1]),
            beta,
        )
        return Law(*(parts if theta.ndim > 1 else map(float, parts)))

    def _terms(self, theta: np.ndarray) -> np.ndarray:
        """(3, K, n): E, the term of size, the term of data."""
        log_e, log_a, alpha, log_b, beta = theta.T[..., None]
        flat = np.zeros_like(self.size)
        return np.exp(np.stack([log_e + flat, log_a - alpha * self.size, log_b - beta * self.length]))

    def log_loss(self, theta: np.ndarray) -> np.ndarray:
        """(K, n)."""
        logs: np.ndarray = np.log(self._terms(theta).sum(axis=0))
        return logs

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """(K, n, 5): of log L(N, D)."""
        terms = self._terms(theta)
        e, a, b = terms / terms.sum(axis=0)
        return np.stack([e, a, -self.size * a, b, -self.length * b], axis=-1)

    def starts(self, loss: np.ndarray) -> np.ndarray:
        """A grid of exponents; for each pair E, A' and B' follow by least squares of relative errors."""
        found = []
        for alpha in _EXPONENTS:
            for beta in _EXPONENTS:
                columns = np.stack(
                    [np.ones_like(loss), np.exp(-alpha * self.size), np.exp(-beta * self.length)], axis=1
                )
                fixed = self.low[[0, 1, 3]] == self.high[[0, 1, 3]]
                known = columns[:, fixed] @ np.exp(self.low[[0, 1, 3]][fixed])
                values = np.exp(self.low[[0, 1, 3]])
                values[~fixed] = np.linalg.lstsq(columns[:, ~fixed] / loss[:, None], 1 - known / loss, rcond=None)[0]
                with np.errstate(divide="ignore"):
                    log_e, log_a, log_b = np.log(np.maximum(values, 0))
                found.append([log_e, log_a, alpha, log_b, beta])
        inside: np.ndarray = np.clip(found, np.where(self.low < self.high, self.low + 10, self.low), self.high)
        return np.where(np.isfinite(inside), np.clip(inside, self.low, self.high), inside)


def _best(problem: _Problem, starts: np.ndarray, target: np.ndarray, delta: float) -> np.ndarray:
    """theta (5,) of the lowest objective that any of the starts leads to."""
    theta, value = _descend(problem, starts, np.broadcast_to(target, (len(starts), len(target))), delta)
    best: np.ndarray = theta[np.argmin(value)]
    return best


def _huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """(K, n) → (K,): the sum of Huber losses; delta may be infinite, which is least squares."""
    size = np.abs(residuals)
    if math.isinf(delta):
        return 0.5 * np.square(residuals).sum(axis=1)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=1)


def _descend(problem: _Problem, theta: np.ndarray, target: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Damped Gauss-Newton steps (Levenberg-Marquardt) with Huber's weights, of K fits at once; theta, objective (K,).

    A parameter at a bound that the gradient pushes it over stays there. A step that does not lower the objective is
    not taken, and the next one is shorter. A fit is done when a step gains nothing to speak of, or none helps.
    """
    theta = theta.copy()
    value = _huber(target - problem.log_loss(theta), delta)
    damping = np.full(len(theta), 1e-2)
    open_ = np.arange(len(theta))  # the fits that are not done
    for _ in range(_STEPS):
        now, wanted, before = theta[open_], target[open_], value[open_]
        tried = np.clip(now + _step(problem, now, wanted, delta, damping[open_]), problem.low, problem.high)
        found = _huber(wanted - problem.log_loss(tried), delta)
        better = found < before
        theta[open_[better]], value[open_[better]] = tried[better], found[better]
        damping[open_] *= np.where(better, 1 / 3, 4.0)
        done = np.where(better, before - found <= _GAIN * before, damping[open_] > _MOST_DAMPING)
        open_ = open_[~done]
        if not len(open_):
            break
    return theta, value


def _step(problem: _Problem, theta: np.ndarray, target: np.ndarray, delta: float, damping: np.ndarray) -> np.ndarray:
    """(K, 5): the solution of the damped normal equations."""
    residuals = target - problem.log_loss(theta)
    weight = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))[..., None]
    jacobian = problem.jacobian(theta)
    downhill = (jacobian * weight * residuals[..., None]).sum(axis=1)
    held = ((theta <= problem.low) & (downhill <= 0)) | ((theta >= problem.high) & (downhill >= 0))
    jacobian = np.where(held[:, None], 0.0, jacobian)
    normal = (jacobian * weight).transpose(0, 2, 1) @ jacobian
    scale = np.einsum("kii->ki", normal) * damping[:, None] + 1e-15 + held
    step = np.linalg.solve(normal + scale[:, None] * np.eye(5), np.where(held, 0.0, downhill)[..., None])[..., 0]
    return np.where(held, 0.0, step)
