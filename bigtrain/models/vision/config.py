"""Settings of the backbones for images; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.settings import setting
from bigtrain.registry import MODELS


@dataclass
class CNNConfig(ModelConfig):
    """Plain convolutional network: [conv 3x3, norm, ReLU, max-pool 2] per width, then one hidden layer."""

    consumes: ClassVar[tuple[str, ...]] = ("images",)

    widths: list[int] = setting([32, 64], "Channels of each stage; its length is the number of stages.")
    convolutions_per_stage: int = setting(1, "Convolutions before each pooling.", at_least=1)
    kernel_size: int = setting(3, "Odd kernel width, in pixels.", at_least=1)
    hidden_size: int = setting(128, "Width of the hidden layer, and of the pooled feature.", at_least=1)
    batch_norm: bool = setting(
        False, "Batch normalisation after each convolution (statistics per rank and micro-batch)."
    )
    dropout: float = setting(0.0, "Probability of dropping a hidden feature.", at_least=0, below=1)

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if not self.widths or min(self.widths) < 1:
            found.append(f"widths is {list(self.widths)}; it needs at least one width, each at least 1")
        if self.kernel_size % 2 == 0:
            found.append(f"kernel_size is {self.kernel_size}; it must be odd")
        return found


MODELS.register("cnn", CNNConfig, factory="bigtrain.models.vision.cnn:CNN")
