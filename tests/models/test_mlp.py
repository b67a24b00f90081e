"""The MLP is the plain formula, reads images and vectors, and refuses what is neither."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import IMAGES, TEXT, VECTORS, drawn

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.mlp import MLP
from bigtrain.models.vision.config import MLPActivation, MLPConfig


@pytest.mark.parametrize(("name", "function"), [("relu", F.relu), ("gelu", F.gelu), ("tanh", torch.tanh)])
@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_equals_the_formula(spec, name, function):
    backbone = drawn(MLP(MLPConfig(widths=[7, 6], activation=MLPActivation(name)), spec)).double()
    inputs = torch.randn(4, *spec.input_shape, dtype=torch.float64)
    first_weight, first_bias, second_weight, second_bias = backbone.parameters()
    expected = function(inputs.reshape(4, -1) @ first_weight.t() + first_bias)
    expected = function(expected @ second_weight.t() + second_bias)
    features = backbone(inputs)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-12, atol=1e-12)
    assert features.hidden is None and features.state is None and backbone.hidden_size == 6


def test_batch_norm_stands_between_the_linear_layer_and_the_activation():
    backbone = drawn(MLP(MLPConfig(widths=[7], batch_norm=True), VECTORS)).double()
    weight, scale, shift = backbone.parameters()
    torch.nn.init.normal_(scale)
    torch.nn.init.normal_(shift)
    vectors = torch.randn(6, 5, dtype=torch.float64)
    product = vectors @ weight.t()
    normalised = (product - product.mean(0)) / (product.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(backbone(vectors).pooled, (normalised * scale + shift).relu(), rtol=1e-10, atol=1e-10)


def test_batch_norm_of_a_single_sample_is_refused_in_training_only():
    backbone = drawn(MLP(MLPConfig(widths=[7], batch_norm=True), VECTORS))
    with pytest.raises(ConfigError, match="at least two samples"):
        backbone(torch.randn(1, 5))
    assert backbone.eval()(torch.randn(1, 5)).pooled.shape == (1, 7)


def test_without_widths_it_is_a_linear_model():
    backbone = MLP(MLPConfig(widths=[]), IMAGES)
    images = torch.randn(2, *IMAGES.input_shape)
    assert not list(backbone.parameters()) and backbone.hidden_size == 3 * 9 * 10
    assert (backbone(images).pooled == images.flatten(1)).all()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))),
    widths=st.lists(st.integers(1, 9), max_size=4),
    batch_norm=st.booleans(),
)
def test_any_shape_and_widths(shape, widths, batch_norm):
    spec = dataclasses.replace(VECTORS if len(shape) == 1 else IMAGES, input_shape=shape)
    backbone = drawn(MLP(MLPConfig(widths=widths, batch_norm=batch_norm), spec))
    inputs = torch.randn(3, *shape, requires_grad=True)
    pooled = backbone(inputs).pooled
    assert pooled.shape == (3, backbone.hidden_size)
    pooled.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


def test_what_does_not_fit_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="reads images or vectors"):
        MLP(MLPConfig(), TEXT)
    assert find_problems(MLPConfig(widths=[3, 0])) and not find_problems(MLPConfig(widths=[]))
