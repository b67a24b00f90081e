"""Parameter groups: which parameters are decayed.

Matrices and larger (weights, embeddings, kernels) are; vectors and scalars (norm gains, biases) never are, as in
GPT-2's and Llama's recipes.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, `decay` and `no_decay`, in the order of `named_parameters`; empty groups are left out."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"name": "decay", "params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"name": "no_decay", "params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
