"""Backbone: the base class of every model. Inputs → `Features`; no loss, no optimizer, no device code.

It lies here, and not in `models/`, because tasks and optimizers read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bigtrain.nn.features import Features

_MAPS = (nn.Linear, _ConvNd, nn.RNNBase)


class Backbone(nn.Module):
    """Made by `factory(config, data_spec)` on the CPU. Weights are declared (`nn/init.py`) or initialised: torch's
    generator is seeded before.

    What has no value here is required, or set by those that have it. A submodule never gets a value here: Python finds
    a class attribute before it asks `nn.Module` for the submodule of that name.
    """

    hidden_size: int  # width D of the features; heads are built to it
    blocks: nn.ModuleList  # the blocks, from input to output; see `ordered_blocks`
    token_embedding: nn.Embedding  # optional; its weight is the output layer's where `tie_embeddings` is set
    pooler: nn.Module | None  # optional: read for `pooled` only; becomes None where no head reads that
    context_length: int | None = None  # tokens trained on at once; generation drops older ones. None: drops nothing
    max_length: int | None = None  # positions that exist; None: no limit
    carries_state: bool = False  # whether windows of one text start in the state in which the one before ended

    # (inputs, state=None, **context): tokens (B, T) int64, images (B, C, H, W) or vectors (B, F); `nn/features.py`
    # has the context. With a state, `inputs` come after those already seen, and the next state is in the features.
    forward: Callable[..., Features]

    def initial_state(self, batch: int, max_length: int) -> Any:
        """The state before the first token, with room for `max_length` tokens. A model that neither generates text nor
        carries its state has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state")

    def start(self, source_BS: Tensor, source_lengths_B: Tensor, rows: int, max_length: int) -> Any:
        """Of an encoder-decoder: the state before the first token of `rows` targets for each source."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder")

    def ordered_blocks(self) -> list[nn.Module]:
        """The blocks, from input to output: `trainer.compile` compiles each by itself, and `optimizer.layer_decay`
        counts them as layers.
        """
        return list(self.blocks)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The parameters that map features to features, which `optimizer=muon` takes: weights of linear layers,
        convolutions and recurrences. A backbone with such matrices in modules of other classes adds them.
        """
        maps = (module for module in self.modules() if isinstance(module, _MAPS))
        return [parameter for module in maps for parameter in module.parameters(recurse=False) if parameter.ndim >= 2]
