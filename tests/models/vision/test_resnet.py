"""The ResNet is the paper's: its parameter counts, its formula written out, any size of image, and its start."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import IMAGES, TEXT, drawn, perturb
from torch import nn

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import ResNetConfig
from bigtrain.models.vision.resnet import ResNet
from bigtrain.nn.heads import PooledHead


def sized(*shape):
    return dataclasses.replace(IMAGES, input_shape=shape)


def parameters_with_head(config, shape, classes):
    with torch.device("meta"):
        backbone = ResNet(config, sized(*shape))
        head = PooledHead(backbone.hidden_size, classes)
    return sum(parameter.numel() for module in (backbone, head) for parameter in module.parameters())


@pytest.mark.parametrize(("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_parameters_of_imagenets_form(depth, count):
    assert parameters_with_head(ResNetConfig(depth=depth), (3, 224, 224), 1000) == count


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_parameters_of_cifars_form(depth, count):
    """The paper's table 6: 0.27, 0.46 and 0.85 million."""
    assert parameters_with_head(ResNetConfig(depth=depth), (3, 32, 32), 10) == count


# depth, blocks of each stage, (settings), (image), whether the stem is large, whether shortcuts are projections
CASES = [
    (8, (1, 1, 1), {}, (3, 9, 10), False, False),
    (20, (3, 3, 3), {"projection": True}, (1, 8, 7), False, True),
    (18, (2, 2, 2, 2), {"projection": False, "stem": "7x7"}, (2, 33, 40), True, False),
    (34, (3, 4, 6, 3), {}, (3, 63, 70), False, True),
    (50, (3, 4, 6, 3), {}, (3, 64, 70), True, True),
    (50, (3, 4, 6, 3), {"projection": False, "stem": "3x3"}, (3, 64, 64), False, False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_equals_the_formula(case):
    depth, blocks, changes, shape, large_stem, projections = case
    backbone = perturb(drawn(ResNet(ResNetConfig(depth=depth, width=4, **changes), sized(*shape))).double(), 0.1)
    images = torch.randn(4, *shape, dtype=torch.float64)
    expected = by_hand(backbone.state_dict(), images, blocks, depth == 50, large_stem, projections)
    features = backbone(images)
    assert features.hidden is None and features.pooled.shape == (4, backbone.hidden_size)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-9, atol=1e-10)


def by_hand(weights, x, blocks, bottleneck, large_stem, projections):
    """With batch norm as it is in training, from the weights in their order."""
    kernels = iter([value for value in weights.values() if value.ndim == 4])
    gains = iter([value for name, value in weights.items() if value.ndim == 1 and name.endswith("weight")])
    biases = iter([value for name, value in weights.items() if name.endswith("bias")])

    def convolved(x, stride=1):
        kernel = next(kernels)
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * next(gains)[:, None, None] + next(biases)[:, None, None]

    x = convolved(x, 2 if large_stem else 1).relu()
    if large_stem:
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage and index == 0 else 1
            if bottleneck:
                branch = convolved(convolved(convolved(x).relu(), stride).relu())
            else:
                branch = convolved(convolved(x, stride).relu())
            if branch.shape == x.shape:
                shortcut = x
            elif projections:
                shortcut = convolved(x, stride)
            else:
                shortcut = torch.zeros_like(branch)
                shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            x = (shortcut + branch).relu()
    assert next(kernels, None) is None
    return x.mean((2, 3))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    depth=st.sampled_from([8, 18, 50]),
    stem=st.sampled_from(["auto", "7x7", "3x3"]),
    projection=st.sampled_from([None, True, False]),
)
def test_any_size_and_channels(shape, depth, stem, projection):
    config = ResNetConfig(depth=depth, width=2, stem=stem, projection=projection)
    assert find_problems(config) == []
    backbone = drawn(ResNet(config, sized(*shape)))
    features = backbone(torch.randn(2, *shape))
    assert features.pooled.shape == (2, backbone.hidden_size)
    features.pooled.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


def test_convolutions_start_as_the_paper_has_it():
    backbone = drawn(ResNet(ResNetConfig(depth=20), IMAGES))
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * part.kernel_size[0] ** 2
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            assert part.bias is None


def test_zero_init_makes_every_block_its_shortcut():
    backbone = drawn(ResNet(ResNetConfig(depth=8, zero_init=True), IMAGES))
    x = torch.randn(3, 16, 9, 10)
    assert torch.equal(backbone.blocks[0](x), x.relu())


def test_stochastic_depth_skips_the_later_blocks_more_often():
    backbone = drawn(ResNet(ResNetConfig(depth=20, stochastic_depth=0.45), IMAGES))
    probabilities = [block.stochastic_depth.probability for block in backbone.blocks]
    assert probabilities == pytest.approx([0.05 * block for block in range(1, 10)])
    images = torch.randn(4, *IMAGES.input_shape)
    assert not torch.equal(backbone(images).pooled, backbone(images).pooled)
    backbone.eval()
    assert torch.equal(backbone(images).pooled, backbone(images).pooled)


@pytest.mark.parametrize("depth", [19, 10, 101])
def test_a_depth_that_is_none_is_refused(depth):
    (problem,) = find_problems(ResNetConfig(depth=depth), "model")
    assert problem.message.startswith(f"model.depth is {depth}") and "6n + 2" in problem.message


def test_a_single_sample_of_a_single_pixel_is_refused_in_training_only():
    backbone = drawn(ResNet(ResNetConfig(depth=8), sized(1, 4, 4)))
    with pytest.raises(ConfigError, match="at least two samples"):
        backbone(torch.randn(1, 1, 4, 4))
    assert backbone.eval()(torch.randn(1, 1, 4, 4)).pooled.shape == (1, 64)


def test_text_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="model=resnet reads images"):
        ResNet(ResNetConfig(), TEXT)
