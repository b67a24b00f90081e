"""CNN: a plain convolutional backbone for images of any size and number of channels.

Images arrive as normalised floats (the classification task's `collate` does that). Weights start as PyTorch
initialises convolutions and linear layers (Kaiming uniform, arXiv:1502.01852).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import CNNConfig
from bigtrain.nn.features import Features


class CNN(nn.Module):
    """[convolution, norm, ReLU, max-pool 2] per width, then one hidden layer; pooled is (B, hidden_size),
    hidden None.

    An image of a single row (or column) is not pooled further along that side, so depth is not limited by
    size. Raises ConfigError where the data has no images.
    """

    def __init__(self, config: CNNConfig, data_spec: DataSpec):
        super().__init__()
        if data_spec.kind != "images" or data_spec.input_shape is None:
            raise ConfigError.of(
                "MODEL-DATA",
                f"model=cnn reads images, but this data gives {data_spec.kind}",
                fix="choose data that gives images, for instance data=fashion_mnist, or another model",
            )
        channels, height, width = data_spec.input_shape
        self.hidden_size = config.hidden_size
        stages = []
        for stage_width in config.widths:
            pool = (min(2, height), min(2, width))
            stages.append(_stage(config, channels, stage_width, pool))
            channels, height, width = stage_width, height // pool[0], width // pool[1]
        # Convolutions store their channels last, as they compute: 34 ms a step against 41 with converted
        # images alone (28x28, batch 128, bf16, one AMX core), 31 against 57 with batch norm.
        self.blocks = nn.ModuleList(stages).to(memory_format=torch.channels_last)
        self.hidden = nn.Linear(channels * height * width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, images_BCHW: Tensor, state: None = None) -> Features:
        """Normalised floats (B, C, H, W) of the data's `input_shape`. There is no state."""
        x = images_BCHW.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        pooled_BD = self.dropout(torch.relu(self.hidden(x.flatten(1))))
        return Features(hidden=None, pooled=pooled_BD)


class Stage(nn.Sequential):
    """Convolutions, norms, ReLUs and a pooling. A class of ours, as torch.compile skips what lies in torch.nn."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One after the other."""
        for layer in self:
            x_BCHW = layer(x_BCHW)
        return x_BCHW


def _stage(config: CNNConfig, in_channels: int, width: int, pool: tuple[int, int]) -> Stage:
    layers: list[nn.Module] = []
    for index in range(config.convolutions_per_stage):
        channels = in_channels if index == 0 else width
        # A bias before batch norm would be subtracted again.
        layers.append(nn.Conv2d(channels, width, config.kernel_size, padding="same", bias=not config.batch_norm))
        if config.batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
    return Stage(*layers, nn.MaxPool2d(pool))
