"""The mixture's optimum is that of Bayes' rule, and its samples follow it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bigtrain.config.settings import find_problems
from bigtrain.data.synthetic.config import GaussianMixtureConfig
from bigtrain.data.synthetic.gaussian_mixture import GaussianMixture, Mixture, two_class_optimum

KINDS = [
    {},
    {"shared_covariance": True},
    {"classes": 2, "features": 5},
    {"classes": 2, "features": 3, "shared_covariance": True, "separation": 2.0},
    {"classes": 7, "features": 1, "separation": 3.0},
]


def small(**settings):
    return GaussianMixtureConfig(**{"train_samples": 2_000, "eval_samples": 20_000, **settings})


@pytest.fixture(autouse=True)
def little_work(monkeypatch):
    monkeypatch.setattr("bigtrain.data.synthetic.gaussian_mixture._MOST_DRAWS", 100_000)


def bayes(config, vectors):
    """log p(c|x) by PyTorch's own density."""
    mixture = Mixture.drawn(config)
    means, factors = torch.from_numpy(mixture.means), torch.from_numpy(mixture.factors)
    classes = torch.distributions.MultivariateNormal(means, scale_tril=factors.expand(len(means), -1, -1))
    return classes.log_prob(vectors.double()[:, None]).log_softmax(dim=1)


@pytest.mark.parametrize("settings", KINDS)
def test_bayes_rule_reaches_the_optimum_on_the_samples(settings):
    config = small(**settings)
    data = GaussianMixture(config)
    spec = data.spec
    samples = data.dataset("val").gather(np.arange(20_000))
    log_p = bayes(config, samples["vectors"])
    losses = -log_p.gather(1, samples["labels"][:, None]).squeeze(1)
    hits = (log_p.argmax(dim=1) == samples["labels"]).double()
    for values, optimum, error in (
        (losses, spec.optimal_loss, spec.optimal_loss_error),
        (hits, spec.optimal_accuracy, spec.optimal_accuracy_error),
    ):
        tolerance = 4 * math.hypot(values.std().item() / math.sqrt(len(values)), error or 0.0)
        assert abs(values.mean().item() - optimum) < tolerance
    assert (spec.optimal_loss_error is None) == (settings.get("classes") == 2 and "shared_covariance" in settings)


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.0, 3.0, 8.0, 30.0])
def test_two_classes_by_formula(distance):
    optimum = two_class_optimum(distance)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = normal.cdf(torch.tensor(distance / 2, dtype=torch.float64))
    assert optimum.accuracy == pytest.approx(expected.item(), abs=1e-12)
    z = np.random.default_rng(0).standard_normal(400_000)
    losses = np.logaddexp(0, -(distance**2 / 2 + distance * z))
    assert abs(optimum.loss - losses.mean()) <= 4 * losses.std() / math.sqrt(len(losses)) + 1e-12
    if distance == 0:
        assert optimum.loss == pytest.approx(math.log(2), abs=1e-12)


def test_the_estimate_agrees_with_the_formula_and_its_error_is_honest():
    """Over 40 seeds the standardised differences have a root mean square near 1."""
    config = small(classes=2, features=3, shared_covariance=True, separation=1.5)
    exact = two_class_optimum(1.5)
    loss, accuracy = [], []
    for seed in range(40):
        seeded = dataclasses.replace(config, draw_seed=seed)
        estimate = Mixture.drawn(seeded).estimated_optimum(seeded)
        loss.append((estimate.loss - exact.loss) / estimate.loss_error)
        accuracy.append((estimate.accuracy - exact.accuracy) / estimate.accuracy_error)
    for standardised in (loss, accuracy):
        assert 0.7 < math.sqrt(np.square(standardised).mean()) < 1.35


@pytest.mark.parametrize("settings", [*KINDS, {"separation": 0.5, "classes": 9, "features": 4}])
def test_means_are_as_far_apart_as_asked_and_volumes_are_one(settings):
    config = small(**settings)
    mixture = Mixture.drawn(config)
    np.testing.assert_allclose(np.linalg.det(mixture.factors), 1)
    means = mixture.means
    if config.shared_covariance:
        means = np.linalg.solve(mixture.factors[0], means.T).T
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[:i]]
    assert np.mean(pairs) == pytest.approx(config.separation)


def test_samples_have_the_mean_and_covariance_of_their_class():
    config = small(classes=3, features=2, train_samples=60_000)
    mixture, train = Mixture.drawn(config), GaussianMixture(config).dataset("train")
    assert np.bincount(train.labels) == pytest.approx([20_000] * 3, rel=0.04)
    for label, (mean, factor) in enumerate(zip(mixture.means, mixture.factors, strict=True)):
        chosen = train.vectors[train.labels == label]
        np.testing.assert_allclose(chosen.mean(axis=0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(chosen.T), factor @ factor.T, atol=0.08)


def test_spec_and_normalisation_of_the_training_split():
    data = GaussianMixture(small(features=3))
    train = data.dataset("train").vectors
    assert data.spec.input_shape == (3,) and data.spec.labels == ("0", "1", "2", "3")
    assert data.spec.sizes == {"train": 2_000, "val": 20_000, "test": 20_000}
    np.testing.assert_allclose(data.spec.normalization["mean"], train.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(data.spec.normalization["std"], train.std(axis=0), rtol=1e-4)


def test_the_same_seed_gives_the_same_data_and_splits_differ():
    first, second = GaussianMixture(small()), GaussianMixture(small())
    assert first.spec == second.spec
    assert GaussianMixture(small(draw_seed=1)).spec.fingerprint != first.spec.fingerprint
    ids = np.arange(100)
    val, test = (first.dataset(split).gather(ids)["vectors"] for split in ("val", "test"))
    assert (val == second.dataset("val").gather(ids)["vectors"]).all() and (val != test).any()
    other = GaussianMixture(small(train_samples=50))
    assert (other.dataset("val").gather(ids)["vectors"] == val).all()


@pytest.mark.parametrize("settings", [{"classes": 1}, {"features": 0}, {"separation": -1.0}, {"features": 1000}])
def test_what_can_not_be_made_is_a_config_problem(settings):
    assert find_problems(GaussianMixtureConfig(**settings))
