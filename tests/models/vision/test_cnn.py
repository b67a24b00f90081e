"""The CNN takes images of any size and channels, and refuses what is no image."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import IMAGES, TEXT, VECTORS, drawn

from bigtrain.errors import ConfigError
from bigtrain.models.vision.cnn import CNN
from bigtrain.models.vision.config import CNNConfig


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    stages=st.integers(1, 4),
    convolutions=st.integers(1, 2),
    batch_norm=st.booleans(),
)
def test_any_size_channels_and_depth(shape, stages, convolutions, batch_norm):
    config = CNNConfig(widths=[3] * stages, convolutions_per_stage=convolutions, hidden_size=5, batch_norm=batch_norm)
    backbone = drawn(CNN(config, dataclasses.replace(IMAGES, input_shape=shape)))
    features = backbone(torch.randn(2, *shape))
    assert features.pooled.shape == (2, 5) and features.hidden is None
    features.pooled.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


def test_default_is_the_classic_small_network():
    backbone = CNN(CNNConfig(), dataclasses.replace(IMAGES, input_shape=(1, 28, 28)))
    assert [tuple(parameter.shape) for parameter in backbone.parameters()] == [
        (32, 1, 3, 3),
        (32,),
        (64, 32, 3, 3),
        (64,),
        (128, 64 * 7 * 7),
        (128,),
    ]


def test_memory_format_of_the_images_changes_nothing():
    backbone = drawn(CNN(CNNConfig(), IMAGES)).double()
    images = torch.randn(4, *IMAGES.input_shape, dtype=torch.float64)
    last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(backbone(images).pooled, backbone(last).pooled, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", [TEXT, VECTORS], ids=lambda spec: spec.kind)
def test_what_is_no_image_is_refused_with_a_sentence(spec):
    with pytest.raises(ConfigError, match="reads images"):
        CNN(CNNConfig(), spec)
