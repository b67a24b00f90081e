"""Labels that know nothing of their images: what can't be learnt, and what can be memorised."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bigtrain.data.synthetic.config import RandomLabelsConfig
from bigtrain.data.synthetic.random_labels import RandomLabels


def everything(data, split):
    samples = data.dataset(split).gather(np.arange(data.spec.sizes[split]))
    return samples["images"].flatten(1).float() / 255 - 0.5, samples["labels"]


def learnt(vectors, labels, classes, steps):
    """A linear model after so many steps of gradient descent."""
    weight = torch.zeros(vectors.shape[1], classes, requires_grad=True)
    for _ in range(steps):
        F.cross_entropy(vectors @ weight, labels).backward()
        with torch.no_grad():
            weight -= 0.5 * weight.grad
        weight.grad = None
    return weight.detach()


@pytest.mark.parametrize("steps", [3, 30, 400])
def test_validation_is_never_better_than_chance_however_well_train_is_learnt(steps):
    """Over eight seeds together: never below ln C, and never above 1/C, by more than sampling allows."""
    classes, losses, hits = 5, [], []
    for seed in range(8):
        data = RandomLabels(RandomLabelsConfig(classes=classes, train_samples=150, eval_samples=1_000, draw_seed=seed))
        assert data.spec.optimal_loss == math.log(classes) and data.spec.optimal_accuracy == 1 / classes
        train, val = everything(data, "train"), everything(data, "val")
        weight = learnt(*train, classes, steps)
        losses.append(F.cross_entropy(val[0] @ weight, val[1], reduction="none"))
        hits.append(((val[0] @ weight).argmax(dim=1) == val[1]).float())
        assert steps < 400 or F.cross_entropy(train[0] @ weight, train[1]) < 0.3 * math.log(classes)
    loss, hit = torch.cat(losses), torch.cat(hits)
    assert loss.mean() > math.log(classes) - 4 * loss.std() / math.sqrt(len(loss))
    assert abs(hit.mean() - 1 / classes) < 4 * hit.std() / math.sqrt(len(hit))


def test_pixels_and_labels_are_uniform():
    data = RandomLabels(RandomLabelsConfig(classes=4, size=8, train_samples=20_000))
    samples = data.dataset("train").gather(np.arange(20_000))
    assert samples["images"].shape == (20_000, 1, 8, 8) and samples["images"].dtype is torch.uint8
    counts = torch.bincount(samples["images"].flatten().long(), minlength=256)
    assert counts.tolist() == pytest.approx([5_000] * 256, rel=0.07)
    assert torch.bincount(samples["labels"]).tolist() == pytest.approx([5_000] * 4, rel=0.05)
    assert data.spec.normalization["mean"] == pytest.approx([0.5], abs=0.01)


def test_seeds_and_splits():
    first = RandomLabels(RandomLabelsConfig())
    assert first.spec == RandomLabels(RandomLabelsConfig()).spec
    assert first.spec.fingerprint != RandomLabels(RandomLabelsConfig(draw_seed=1)).spec.fingerprint
    val, test = (first.dataset(split).gather(np.arange(50))["images"] for split in ("val", "test"))
    assert (val != test).any()
