"""Glyphs are balanced, drawn the same each time, different in each split, and readable."""

import numpy as np
import pytest
import torch

from bigtrain.data.images.config import GlyphsConfig
from bigtrain.data.images.glyph_drawing import render_masters
from bigtrain.data.images.glyphs import Glyphs


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def glyphs(cache):
    return Glyphs(GlyphsConfig(train_images=3000, test_images=500, cache_dir=cache))


def everything(glyphs, split):
    return glyphs.dataset(split).gather(np.arange(glyphs.spec.sizes[split]))


def test_shape_balance_and_normalisation(glyphs):
    assert glyphs.spec.input_shape == (1, 28, 28) and glyphs.spec.labels == tuple("0123456789")
    for split, size in {"train": 2500, "val": 500, "test": 500}.items():
        samples = everything(glyphs, split)
        assert samples["images"].shape == (size, 1, 28, 28) and samples["images"].dtype is torch.uint8
    labels = torch.cat([everything(glyphs, split)["labels"] for split in ("train", "val")])
    assert torch.bincount(labels).tolist() == [300] * 10
    assert torch.bincount(everything(glyphs, "test")["labels"]).tolist() == [50] * 10
    scaled = everything(glyphs, "train")["images"].double() / 255
    assert glyphs.spec.normalization["mean"] == pytest.approx([scaled.mean().item()])
    assert glyphs.spec.normalization["std"] == pytest.approx([scaled.std(correction=0).item()])


def test_drawn_the_same_anywhere_and_found_in_the_cache(glyphs, cache, tmp_path, monkeypatch):
    config = GlyphsConfig(train_images=3000, test_images=500, cache_dir=str(tmp_path))
    assert Glyphs(config).spec == glyphs.spec
    monkeypatch.setattr("bigtrain.data.images.glyphs._draw", lambda counts: pytest.fail("drawn again"))
    config.cache_dir = cache
    assert Glyphs(config).spec == glyphs.spec
    config.val_fraction = 0.0  # is no reason to draw again
    assert Glyphs(config).spec.sizes == {"train": 3000, "test": 500}


def test_splits_are_different_draws_and_do_not_depend_on_each_others_size(glyphs, tmp_path):
    images = {split: everything(glyphs, split)["images"].flatten(1) for split in ("train", "val", "test")}
    both = torch.cat(list(images.values()))
    assert len(torch.unique(both, dim=0)) == len(both)
    other = Glyphs(GlyphsConfig(train_images=10, test_images=500, cache_dir=str(tmp_path)))
    assert (everything(other, "test")["images"].flatten(1) == images["test"]).all()


def test_as_many_images_as_mnist_has():
    config = GlyphsConfig()
    assert (config.train_images, config.test_images) == (60_000, 10_000)
    assert round(config.val_fraction * config.train_images) == 10_000


def test_every_font_has_ten_different_digits():
    masters = render_masters()
    assert masters.shape[1:] == (10, 72, 72) and len(masters) >= 15
    assert masters.min() >= 0 and masters.max() <= 1 + 1e-6
    ink = masters.mean(axis=(2, 3))
    assert (ink > 0.02).all() and (ink < 0.5).all()
    for font in masters:
        assert len({digit.tobytes() for digit in font}) == 10


def test_a_linear_reader_is_much_better_than_chance(glyphs):
    """Labels belong to their images. By chance 10 % of 500 are right, with a standard error of 1.34 %."""
    train, test = everything(glyphs, "train"), everything(glyphs, "test")
    pixels = train["images"].flatten(1).double() / 255
    targets = torch.eye(10, dtype=torch.double)[train["labels"]]
    gram = pixels.T @ pixels + 10 * torch.eye(784, dtype=torch.double)
    weights = torch.linalg.solve(gram, pixels.T @ targets)
    predicted = (test["images"].flatten(1).double() / 255 @ weights).argmax(dim=1)
    assert (predicted == test["labels"]).float().mean() > 0.1 + 15 * 0.0134
