"""VGG is the paper's: its parameter counts, its formula written out, and any size of image."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import IMAGES, TEXT, drawn

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import VGGConfig
from bigtrain.models.vision.vgg import VGG
from bigtrain.nn.heads import PooledHead


def sized(*shape):
    return dataclasses.replace(IMAGES, input_shape=shape)


COUNTS = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}


@pytest.mark.parametrize("depth", COUNTS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameters_for_imagenet(depth, batch_norm):
    """Batch norm has two parameters per channel, in place of the convolution's bias."""
    with torch.device("meta"):
        backbone = VGG(VGGConfig(depth=depth, batch_norm=batch_norm), sized(3, 224, 224))
        head = PooledHead(backbone.hidden_size, 1000)
    kernels = [value for value in backbone.parameters() if value.ndim == 4]
    extra = sum(len(kernel) for kernel in kernels) if batch_norm else 0
    count = sum(parameter.numel() for module in (backbone, head) for parameter in module.parameters())
    assert count == COUNTS[depth] + extra
    assert len(kernels) + 3 == depth


@pytest.mark.parametrize("shape", [(3, 9, 40), (1, 28, 28), (2, 250, 230)], ids=str)
@pytest.mark.parametrize("depth", [11, 16])
def test_equals_the_formula(depth, shape):
    backbone = drawn(VGG(VGGConfig(depth=depth, width=3, hidden_size=8, dropout=0.0), sized(*shape))).double()
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    *convolutions, first, first_bias, second, second_bias = backbone.parameters()
    x = images = torch.randn(2, *shape, dtype=torch.float64)
    pairs = iter(zip(convolutions[::2], convolutions[1::2], strict=True))
    for count in {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}[depth]:
        for _ in range(count):
            x = F.conv2d(x, *next(pairs), padding=1).relu()
        x = F.max_pool2d(x, [min(2, side) for side in x.shape[2:]])
    x = F.adaptive_avg_pool2d(x, [min(7, side) for side in x.shape[2:]])
    x = (x.reshape(2, -1) @ first.t() + first_bias).relu()
    expected = (x @ second.t() + second_bias).relu()
    features = backbone(images)
    assert features.hidden is None
    torch.testing.assert_close(features.pooled, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    depth=st.sampled_from([11, 13, 16, 19]),
    batch_norm=st.booleans(),
)
def test_any_size_and_channels(shape, depth, batch_norm):
    config = VGGConfig(depth=depth, width=2, hidden_size=5, batch_norm=batch_norm)
    assert find_problems(config) == []
    backbone = drawn(VGG(config, sized(*shape)))
    features = backbone(torch.randn(2, *shape))
    assert features.pooled.shape == (2, backbone.hidden_size) == (2, 5)
    features.pooled.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


def test_the_signal_neither_dies_nor_explodes_in_nineteen_layers():
    torch.manual_seed(0)
    backbone = drawn(VGG(VGGConfig(depth=19, width=16, hidden_size=256), sized(3, 64, 64))).eval()
    assert 0.1 < backbone(torch.randn(8, 3, 64, 64)).pooled.std() < 10


def test_a_depth_that_is_none_is_refused():
    (problem,) = find_problems(VGGConfig(depth=12), "model")
    assert problem.message == "model.depth is 12; it must be 11, 13, 16, 19"


def test_text_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="model=vgg reads images"):
        VGG(VGGConfig(), TEXT)
