"""VGG (arXiv:1409.1556): 3x3 convolutions in five stages, for images of any size and number of channels.

Images arrive as normalised floats (the classification task's `collate` does that). Weights start by Kaiming's rule
(arXiv:1502.01852), under which 19 layers learn without the paper's start from a shallower network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.vision.cnn import Stage
from bigtrain.models.vision.config import VGG_CONVOLUTIONS, VGGConfig
from bigtrain.models.vision.images import image_shape
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features
from bigtrain.nn.init import kaiming_convolutions, normal_linear

_WIDTHS = (1, 2, 4, 8, 8)  # of each stage, in those of the first
_POOLED_SIDE = 7  # what five poolings leave of ImageNet's 224 pixels; larger maps are averaged down to it


class VGG(Backbone):
    """Five stages, then two hidden layers; pooled is (B, hidden_size), hidden None.

    A map of a single row (or column) is not pooled further along that side. Raises ConfigError where the data has no
    images.
    """

    def __init__(self, config: VGGConfig, data_spec: DataSpec):
        super().__init__()
        channels, height, width = image_shape("vgg", data_spec)
        self.hidden_size = config.hidden_size
        stages = []
        for times, convolutions in zip(_WIDTHS, VGG_CONVOLUTIONS[config.depth], strict=True):
            pool = (min(2, height), min(2, width))
            stages.append(Stage(channels, times * config.width, convolutions, pool, batch_norm=config.batch_norm))
            channels, height, width = times * config.width, height // pool[0], width // pool[1]
        self.blocks = nn.ModuleList(stages)
        height, width = min(_POOLED_SIDE, height), min(_POOLED_SIDE, width)
        self.pool = nn.AdaptiveAvgPool2d((height, width))
        self.hidden = nn.Sequential()
        for in_features in (channels * height * width, config.hidden_size):
            linear = normal_linear(in_features, config.hidden_size, bias=True, std=math.sqrt(2 / in_features))
            self.hidden.extend([linear, nn.ReLU(), nn.Dropout(config.dropout)])
        kaiming_convolutions(self)
        self.blocks.to(memory_format=torch.channels_last)  # as in models/vision/cnn.py

    def forward(self, images_BCHW: Tensor, state: None = None) -> Features:
        """Normalised floats (B, C, H, W) of the data's `input_shape`. There is no state."""
        x = images_BCHW.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return Features(hidden=None, pooled=self.hidden(self.pool(x).flatten(1)))
