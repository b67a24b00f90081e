"""Values of known noise: their population is as described, and least squares on it comes to the stated optimum."""

import dataclasses

import numpy as np
import pytest

from bigtrain.data.synthetic.config import LinearValuesConfig
from bigtrain.data.synthetic.linear import LinearValues


def everything(data, split):
    samples = data.dataset(split).gather(np.arange(len(data.dataset(split))))
    return samples["vectors"].numpy().astype(np.float64), samples["values"].numpy().astype(np.float64)


def standardised(data, values):
    return (values - data.spec.value_normalization["mean"]) / data.spec.value_normalization["std"]


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_least_squares_on_the_right_features_comes_to_the_optimum(curved, noise):
    data = LinearValues(LinearValuesConfig(features=5, values=3, noise=noise, curved=curved))
    features = np.sin if curved else np.asarray
    (x, y), (x_test, y_test) = everything(data, "train"), everything(data, "test")
    weights, *_ = np.linalg.lstsq(np.c_[features(x), np.ones(len(x))], standardised(data, y), rcond=None)
    errors = np.c_[features(x_test), np.ones(len(x_test))] @ weights - standardised(data, y_test)
    assert np.square(errors).mean() == pytest.approx(data.spec.optimal_loss, rel=0.03)
    shares = np.square(errors).sum(axis=0) / np.square(standardised(data, y_test)).sum(axis=0)
    assert 1 - shares == pytest.approx(1 / (1 + noise**2), abs=0.02)


def test_a_linear_model_only_approaches_sines():
    data = LinearValues(LinearValuesConfig(curved=True, noise=0.1))
    x, y = everything(data, "train")
    weights, *_ = np.linalg.lstsq(x, standardised(data, y), rcond=None)
    assert np.square(x @ weights - standardised(data, y)).mean() > 3 * data.spec.optimal_loss


def test_units_and_offsets_differ_and_are_those_of_the_training_split():
    data = LinearValues(LinearValuesConfig(values=4))
    _, y = everything(data, "train")
    assert data.spec.values == ("y0", "y1", "y2", "y3")
    assert data.spec.value_normalization["mean"] == pytest.approx(y.mean(axis=0))
    assert data.spec.value_normalization["std"] == pytest.approx(y.std(axis=0))
    stds = data.spec.value_normalization["std"]
    assert max(stds) / min(stds) > 3


def test_splits_and_seeds_have_draws_of_their_own():
    config = LinearValuesConfig(train_samples=20, eval_samples=20)
    data, other = LinearValues(config), LinearValues(dataclasses.replace(config, draw_seed=1))
    assert data.spec.fingerprint != other.spec.fingerprint
    assert len({everything(data, split)[0].tobytes() for split in ("train", "val", "test")}) == 3
