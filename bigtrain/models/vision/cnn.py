"""CNN: a plain convolutional backbone for images of any size and number of channels.

Images arrive as normalised floats (the classification task's `collate` does that). Weights start as PyTorch
initialises convolutions and linear layers (Kaiming uniform, arXiv:1502.01852).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.vision.config import CNNConfig
from bigtrain.models.vision.images import image_shape
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features
from bigtrain.nn.init import uniform_convolution, uniform_linear
from bigtrain.nn.norm import BatchNorm2d


class CNN(Backbone):
    """[convolution, norm, ReLU, max-pool 2] per width, then one hidden layer; pooled is (B, hidden_size),
    hidden None.

    An image of a single row (or column) is not pooled further along that side, so any depth fits any size. Raises
    ConfigError where the data has no images.
    """

    def __init__(self, config: CNNConfig, data_spec: DataSpec):
        super().__init__()
        channels, height, width = image_shape("cnn", data_spec)
        self.hidden_size = config.hidden_size
        stages = []
        for stage_width in config.widths:
            pool = (min(2, height), min(2, width))
            stages.append(
                Stage(
                    channels,
                    stage_width,
                    config.convolutions_per_stage,
                    pool,
                    kernel_size=config.kernel_size,
                    batch_norm=config.batch_norm,
                )
            )
            channels, height, width = stage_width, height // pool[0], width // pool[1]
        # Convolutions store their channels last, as they compute: 34 ms a step against 41 with converted
        # images alone (28x28, batch 128, bf16, one AMX core), 31 against 57 with batch norm.
        self.blocks = nn.ModuleList(stages).to(memory_format=torch.channels_last)
        self.hidden = uniform_linear(channels * height * width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, images_BCHW: Tensor, state: None = None) -> Features:
        """Normalised floats (B, C, H, W) of the data's `input_shape`. There is no state."""
        x = images_BCHW.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        pooled_BD = self.dropout(torch.relu(self.hidden(x.flatten(1))))
        return Features(hidden=None, pooled=pooled_BD)


class Stage(nn.Sequential):
    """[convolution, norm if asked for, ReLU] so many times, then a max-pool.

    A subclass, since torch.compile skips modules whose class is in torch.nn.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        convolutions: int,
        pool: tuple[int, int],
        *,
        kernel_size: int = 3,
        batch_norm: bool = False,
    ):
        layers: list[nn.Module] = []
        for index in range(convolutions):
            channels = in_channels if index == 0 else width
            # A bias before batch norm would be subtracted again.
            layers.append(uniform_convolution(channels, width, kernel_size, padding="same", bias=not batch_norm))
            if batch_norm:
                layers.append(BatchNorm2d(width))
            layers.append(nn.ReLU())
        super().__init__(*layers, nn.MaxPool2d(pool))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, width, H / pool, W / pool)."""
        for layer in self:
            x_BCHW = layer(x_BCHW)
        return x_BCHW
