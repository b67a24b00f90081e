"""Disks lie where their values say; without noise on those, the image tells them to a few hundredths of a pixel."""

import numpy as np
import pytest

from bigtrain.data.synthetic.config import DisksConfig
from bigtrain.data.synthetic.disks import Disks


def everything(data, split="test"):
    samples = data.dataset(split).gather(np.arange(len(data.dataset(split))))
    return samples["images"].numpy()[:, 0].astype(np.float64), samples["values"].numpy()


def measured(images):
    """Centre and radius by moments of the light above the ground."""
    light = (images - 64) / 128
    middles = np.arange(images.shape[1]) + 0.5
    total = light.sum(axis=(1, 2))
    x, y = (light.sum(axis=1) @ middles) / total, (light.sum(axis=2) @ middles) / total
    return np.stack([x, y, np.sqrt(total / np.pi)], axis=1)


def test_the_disk_is_where_its_values_say():
    data = Disks(DisksConfig(size=24, noise=0, train_samples=10, eval_samples=500))
    images, values = everything(data)
    assert np.abs(np.mean(measured(images) - values, axis=0)).max() < 0.05
    assert np.abs(measured(images) - values).mean() < 0.3
    assert data.spec.optimal_loss == 0 and data.spec.values == ("x", "y", "radius")
    assert data.spec.input_shape == (1, 24, 24)


def test_values_are_in_the_image_and_their_noise_is_the_optimum():
    still = Disks(DisksConfig(noise=0, train_samples=4000, eval_samples=4000))
    noisy = Disks(DisksConfig(noise=0.5, train_samples=4000, eval_samples=4000))
    (images, true), (same, values) = everything(still), everything(noisy)
    assert np.array_equal(images, same)
    x, y, radius = true.T
    assert (np.minimum(x, y) >= radius).all() and (np.maximum(x, y) <= 16 - radius).all()
    std = np.array(noisy.spec.value_normalization["std"])
    assert np.square((true - values) / std).mean() == pytest.approx(noisy.spec.optimal_loss, rel=0.03)
    assert still.spec.fingerprint != noisy.spec.fingerprint
