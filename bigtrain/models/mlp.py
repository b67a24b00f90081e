"""MLP: a multilayer perceptron on flattened images or on vectors.

Inputs arrive as normalised floats (the classification task's `collate` does that). Weights start as PyTorch
initialises linear layers (Kaiming uniform, arXiv:1502.01852).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import MLPConfig
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features
from bigtrain.nn.init import uniform_linear

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}


class MLP(Backbone):
    """One `Layer` per width; pooled is (B, last width), or the flattened input where there are no widths; hidden None.

    Raises ConfigError where the data has neither images nor vectors.
    """

    def __init__(self, config: MLPConfig, data_spec: DataSpec):
        super().__init__()
        if data_spec.input_shape is None:
            raise ConfigError.of(
                "MODEL-DATA",
                f"model=mlp reads images or vectors, but this data gives {data_spec.kind}",
                fix="choose data that gives them, for instance data=glyphs, or another model",
            )
        sizes = [math.prod(data_spec.input_shape), *config.widths]
        self.blocks = nn.ModuleList(Layer(config, *pair) for pair in zip(sizes, sizes[1:], strict=False))
        self.hidden_size = sizes[-1]

    def forward(self, inputs: Tensor, state: None = None) -> Features:
        """Normalised floats (B, F) or (B, C, H, W) of the data's `input_shape`. There is no state."""
        x_BD = inputs.flatten(1)
        for block in self.blocks:
            x_BD = block(x_BD)
        return Features(hidden=None, pooled=x_BD)


class Layer(nn.Module):
    """Linear, batch norm if `config.batch_norm`, activation, dropout.

    Raises ConfigError in training where batch norm has a single sample: a variance needs two.
    """

    def __init__(self, config: MLPConfig, in_features: int, out_features: int):
        super().__init__()
        # A bias before batch norm would be subtracted again.
        self.linear = uniform_linear(in_features, out_features, bias=not config.batch_norm)
        self.norm = nn.BatchNorm1d(out_features) if config.batch_norm else None
        self.activation = _ACTIVATIONS[config.activation.value]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, in) → (B, out)."""
        x_BD = self.linear(x_BD)
        if self.norm is not None:
            if self.training and len(x_BD) == 1:
                raise ConfigError.of(
                    "CONFIG-COMBINATION",
                    "model.batch_norm=true needs at least two samples per forward pass, and there is one",
                    fix="raise trainer.batch_size or trainer.micro_batch_size, or model.batch_norm=false",
                )
            x_BD = self.norm(x_BD)
        return self.dropout(self.activation(x_BD))
