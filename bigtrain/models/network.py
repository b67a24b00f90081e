"""Network: a backbone and a task's heads as one module; and weight tying.

Order of assembly: construct (which initialises) → `tie_weights` → compile, wrap, load.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.heads import Head
from bigtrain.registry import inheriting


class NetworkOutput(NamedTuple):
    """Each head's predictions by name, and the backbone's state after the inputs, or None."""

    predictions: dict[str, Any]
    state: Any


class Network(nn.Module):
    """Every head reads the same Features of one pass through the backbone.

    The backbone's `pooler` is removed where no head reads it: it would be saved untrained, and DDP would wait for its
    gradient.
    """

    def __init__(self, backbone: nn.Module, heads: dict[str, nn.Module]):
        super().__init__()
        self.backbone: Backbone = inheriting(backbone, Backbone)
        if all(isinstance(head, Head) and not head.reads_pooled for head in heads.values()):
            self.backbone.pooler = None
        self.heads = nn.ModuleDict(heads)

    def forward(self, inputs: Tensor, state: Any = None, **context: Tensor) -> NetworkOutput:
        """`inputs`, `state` and `context` (`nn/features.py`) as the backbone takes them."""
        features = self.backbone(inputs, state, **context)
        predictions = {name: head(features) for name, head in self.heads.items()}
        return NetworkOutput(predictions, features.state)


def tie_weights(network: Network, model_config: ModelConfig) -> None:
    """With `model.tie_embeddings`, heads over the vocabulary share the token embedding's Parameter (arXiv:1608.05859).

    Nothing happens for a backbone without that setting, or a task without such a head.
    """
    if not model_config.tie_embeddings:
        return
    for name in ("language_model", "masked_language_model", "seq2seq"):
        if name in network.heads:
            network.heads[name].weight = network.backbone.token_embedding.weight
