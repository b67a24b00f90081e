"""ResNet (arXiv:1512.03385): residual networks for images of any size and number of channels.

Images arrive as normalised floats (the classification task's `collate` does that). Convolutions start from
N(0, 2 / fan_out) (arXiv:1502.01852), as the paper has it. Its 50 layers are version 1.5: the stride is in the 3x3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.vision.config import IMAGENET_DEPTHS, ResNetConfig
from bigtrain.models.vision.images import image_shape
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features
from bigtrain.nn.init import kaiming_convolutions, undrawn
from bigtrain.nn.norm import BatchNorm2d
from bigtrain.nn.stochastic_depth import StochasticDepth, skip_probabilities

_LARGE = 64  # pixels: below, a 7x7 with stride 2 and a max-pool would leave the first stage 15 x 15 or less
_BOTTLENECK = 4  # channels that a bottleneck gives, per channel of its 3x3


class ResNet(Backbone):
    """Stem, blocks, mean over the pixels; pooled is (B, last stage's channels), hidden None.

    Raises ConfigError where the data has no images.
    """

    def __init__(self, config: ResNetConfig, data_spec: DataSpec):
        super().__init__()
        channels, height, width = image_shape("resnet", data_spec)
        imagenet_form = config.depth in IMAGENET_DEPTHS
        stem = config.stem
        if stem == "auto":
            stem = "7x7" if imagenet_form and min(height, width) >= _LARGE else "3x3"
        projection = imagenet_form if config.projection is None else config.projection
        blocks_per_stage = _blocks_per_stage(config.depth)
        in_channels = config.width or (64 if imagenet_form else 16)
        stage_widths = [in_channels << stage for stage in range(len(blocks_per_stage))]
        self.stem = _stem(channels, in_channels, stem)

        skips = iter(skip_probabilities(config.stochastic_depth, sum(blocks_per_stage)))
        blocks = []
        for stage, (width, num_blocks) in enumerate(zip(stage_widths, blocks_per_stage, strict=True)):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                branch, out_channels = _branch(in_channels, width, stride, bottleneck=config.depth == 50)
                shortcut = _shortcut(in_channels, out_channels, stride, projection)
                blocks.append(Block(branch, shortcut, next(skips)))
                in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden_size = in_channels
        kaiming_convolutions(self)
        if config.zero_init:
            for block in blocks:
                nn.init.zeros_(block.branch[-1].weight)
        self.to(memory_format=torch.channels_last)  # 20 layers, 28x28, batch 128, fp32, a core: 0.67 s a step, not 0.95

    def forward(self, images_BCHW: Tensor, state: None = None) -> Features:
        """Normalised floats (B, C, H, W). There is no state."""
        x = self.stem(images_BCHW.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return Features(hidden=None, pooled=self.dropout(x.mean(dim=(2, 3))))


class Block(nn.Module):
    """relu(shortcut(x) + branch(x)); the branch is skipped for a sample with `skip_probability`, in training."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, skip_probability: float):
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.stochastic_depth = StochasticDepth(skip_probability)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W'), sides halved (rounded up) where the branch has a stride."""
        return torch.relu(self.shortcut(x_BCHW) + self.stochastic_depth(self.branch(x_BCHW)))


class Subsample(nn.Module):
    """Every `stride`-th pixel, and zeros for `new_channels`: without parameters, the paper's option A."""

    def __init__(self, stride: int, new_channels: int = 0):
        super().__init__()
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """See the class."""
        return F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def _blocks_per_stage(depth: int) -> tuple[int, ...]:
    if depth in IMAGENET_DEPTHS:
        return (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
    return ((depth - 2) // 6,) * 3


def _stem(channels: int, width: int, kind: str) -> nn.Sequential:
    if kind == "3x3":
        return nn.Sequential(*_convolution(channels, width, 3), nn.ReLU())
    return nn.Sequential(*_convolution(channels, width, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))


def _branch(in_channels: int, width: int, stride: int, *, bottleneck: bool) -> tuple[nn.Sequential, int]:
    """Two 3x3 convolutions, or a 1x1, a 3x3 and a 1x1; and how many channels they give."""
    if not bottleneck:
        layers = [*_convolution(in_channels, width, 3, stride), nn.ReLU(), *_convolution(width, width, 3)]
        return nn.Sequential(*layers), width
    reduce, middle = _convolution(in_channels, width, 1), _convolution(width, width, 3, stride)
    expand = _convolution(width, width * _BOTTLENECK, 1)
    return nn.Sequential(*reduce, nn.ReLU(), *middle, nn.ReLU(), *expand), width * _BOTTLENECK


def _shortcut(in_channels: int, out_channels: int, stride: int, projection: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if projection:
        # Not a convolution with a stride: of fewer than 8 channels its gradient writes past the end of its memory on a
        # CPU (https://github.com/uxlfoundation/oneDNN/issues/6035).
        return nn.Sequential(Subsample(stride), *_convolution(in_channels, out_channels, 1))
    return Subsample(stride, out_channels - in_channels)


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, up to its stride, and its norm."""
    settings = {"stride": stride, "padding": kernel_size // 2, "bias": False}
    convolution = undrawn(nn.Conv2d, in_channels, out_channels, kernel_size, **settings)
    return [convolution, BatchNorm2d(out_channels)]
