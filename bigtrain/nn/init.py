"""Initial weights: linear layers, embeddings and convolutions drawn from normal distributions.

Constructors draw from torch's global generator, which the caller seeds: same seed, same weights. The CNN and the MLP
keep PyTorch's own initialisation.
"""

from __future__ import annotations

import math

from torch import nn


def normal_linear(in_features: int, out_features: int, *, bias: bool, std: float) -> nn.Linear:
    """A linear layer with weights from N(0, std²) (zero where std is 0) and bias zero."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.normal_(linear.weight, std=std)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def normal_embedding(num_embeddings: int, width: int, *, std: float) -> nn.Embedding:
    """An embedding table with entries from N(0, std²)."""
    embedding = nn.Embedding(num_embeddings, width)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def kaiming_convolutions(module: nn.Module) -> None:
    """Weights of all convolutions in a module from N(0, 2 / fan_out), biases zero (arXiv:1502.01852): for ReLUs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def xavier_std(in_features: int, out_features: int) -> float:
    """sqrt(2 / (in + out)), which keeps the variance of activations and gradients (Glorot & Bengio 2010)."""
    return math.sqrt(2 / (in_features + out_features))


def residual_std(init: str, std: float, num_layers: int) -> float:
    """Standard deviation for projections that write to the residual stream.

    `scaled`: std / sqrt(2 L), so that the variance of the sum of 2 L terms does not grow with L (GPT-2, section 2.3).
    `zero`: 0, every block starts as the identity (Fixup, arXiv:1901.09321; muP recommends it too).
    """
    return {"scaled": std / math.sqrt(2 * num_layers), "zero": 0.0}[init]
