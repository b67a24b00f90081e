"""Settings of the backbones for images, and for vectors; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.registry import MODELS

IMAGENET_DEPTHS = (18, 34, 50)  # 50 is 6n + 2 too, but there is no such CIFAR form in the paper
# Convolutions of each stage, by depth (the paper's configurations A, B, D and E).
VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class MLPActivation(Enum):
    """Nonlinearity between the layers of an MLP."""

    relu = "relu"
    gelu = "gelu"
    tanh = "tanh"


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

    def problems(self) -> list[Invalid]:
        found = []
        if not self.widths or min(self.widths) < 1:
            found.append(Invalid("widths", f"is {list(self.widths)}; it needs at least one width, each at least 1"))
        if self.kernel_size % 2 == 0:
            found.append(Invalid("kernel_size", f"is {self.kernel_size}; it must be odd"))
        return found


@dataclass
class ResNetConfig(ModelConfig):
    """Residual network (arXiv:1512.03385): in ImageNet's form, or in CIFAR's, which is narrow and deep."""

    consumes: ClassVar[tuple[str, ...]] = ("images",)

    depth: int = setting(
        20, "Layers with weights: 18, 34 or 50 in ImageNet's form; 6n + 2 (20, 32, 44, 56, …) in CIFAR's.", at_least=8
    )
    width: int | None = setting(
        None,
        "Channels of the first stage; each next one has twice as many. Default, as in the paper: 64, or 16.",
        at_least=1,
    )
    stem: str = setting(
        "auto",
        "First convolution: 7x7 (stride 2, then a max-pool), or 3x3; "
        "auto: 7x7 in ImageNet's form for images of at least 64 pixels each way.",
        choices=("auto", "7x7", "3x3"),
    )
    projection: bool | None = setting(
        None,
        "Where the shape changes, shortcuts are 1x1 convolutions; false: every other pixel, and zeros for new channels "
        "(the paper's option A, without parameters). Default, as in the paper: true in ImageNet's form only.",
    )
    zero_init: bool = setting(
        False, "Every block starts as its shortcut: the gain of its last norm is zero (arXiv:1706.02677)."
    )
    stochastic_depth: float = setting(
        0.0,
        "Probability of skipping the last block for a sample in training; less for earlier ones (arXiv:1603.09382).",
        at_least=0,
        below=1,
    )
    dropout: float = setting(0.0, "Probability of dropping a pooled feature.", at_least=0, below=1)

    def problems(self) -> list[Invalid]:
        if self.depth not in IMAGENET_DEPTHS and self.depth % 6 != 2:
            return [Invalid("depth", f"is {self.depth}; it must be 18, 34 or 50, or 6n + 2: 20, 32, 44, 56, …")]
        return []


@dataclass
class VGGConfig(ModelConfig):
    """VGG (arXiv:1409.1556): 3x3 convolutions in five stages, then two wide hidden layers."""

    consumes: ClassVar[tuple[str, ...]] = ("images",)

    depth: int = setting(11, "Layers with weights, the classifier's among them: 11, 13, 16 or 19.")
    width: int = setting(64, "Channels of the first stage; the others have 2, 4, 8 and 8 times as many.", at_least=1)
    hidden_size: int = setting(
        4096, "Width of the two hidden layers, and of the pooled feature; small images want less.", at_least=1
    )
    batch_norm: bool = setting(
        False, "Batch normalisation after each convolution (statistics per rank and micro-batch)."
    )
    dropout: float = setting(0.5, "Probability of dropping a hidden feature.", at_least=0, below=1)

    def problems(self) -> list[Invalid]:
        if self.depth not in VGG_CONVOLUTIONS:
            return [Invalid("depth", f"is {self.depth}; it must be {', '.join(map(str, VGG_CONVOLUTIONS))}")]
        return []


@dataclass
class MLPConfig(ModelConfig):
    """Multilayer perceptron: [linear, norm, activation, dropout] per width, on flattened images or on vectors."""

    consumes: ClassVar[tuple[str, ...]] = ("images", "vectors")

    widths: list[int] = setting([256, 256], "Width of each hidden layer; [] makes a linear model.")
    activation: MLPActivation = setting(MLPActivation.relu, "Nonlinearity after each hidden layer.")
    batch_norm: bool = setting(
        False, "Batch normalisation after each linear layer (statistics per rank and micro-batch)."
    )
    dropout: float = setting(0.0, "Probability of dropping a hidden feature.", at_least=0, below=1)

    def problems(self) -> list[Invalid]:
        if any(width < 1 for width in self.widths):
            return [Invalid("widths", f"is {list(self.widths)}; each must be at least 1")]
        return []


MODELS.register("cnn", CNNConfig, factory="bigtrain.models.vision.cnn:CNN")
MODELS.register("resnet", ResNetConfig, factory="bigtrain.models.vision.resnet:ResNet")
MODELS.register("vgg", VGGConfig, factory="bigtrain.models.vision.vgg:VGG")
MODELS.register("mlp", MLPConfig, factory="bigtrain.models.mlp:MLP")
