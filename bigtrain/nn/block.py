"""The transformer block: parts that are added to the residual stream, with a norm before or after each sum.

Shapes: N rows, B sources, T time, S source time, D model width, G key/value heads, K head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bigtrain.nn.attention import Attention
from bigtrain.nn.cache import LayerCache
from bigtrain.nn.feedforward import FeedForward
from bigtrain.nn.stochastic_depth import StochasticDepth


class Block(nn.Module):
    """Self-attention, cross-attention if there is one, and feed-forward; each with a residual connection and a norm.

    Pre-norm (arXiv:2002.04745): x + part(norm(x)). Post-norm, as in arXiv:1706.03762: norm(x + part(x)). In training,
    what a part adds is zero for a sample with `skip_probability`. Parameters are in the order in which the parts are
    given; it differs between models, and sums over parameters and old optimizer states depend on it.
    """

    attention: Attention
    attention_norm: nn.Module
    cross_attention: Attention | None
    cross_attention_norm: nn.Module
    feedforward: FeedForward
    feedforward_norm: nn.Module

    def __init__(self, *, pre_norm: bool, skip_probability: float = 0.0, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        if "cross_attention" not in parts:
            self.cross_attention = None
        self.stochastic_depth = StochasticDepth(skip_probability)
        self.pre_norm = pre_norm

    def forward(
        self,
        x_NTD: Tensor,
        *,
        mask: Tensor | None = None,
        rotation_T21K: Tensor | None = None,
        cache: LayerCache | None = None,
        source_BSD: Tensor | None = None,
        memory_2BGSK: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """(N, T, D) → (N, T, D). `mask`, `rotation` and `cache` are for self-attention, the others for cross-attention.

        The source comes encoded, or as `memory`, the keys and values that `cross_attention.keys_values` returns for it.
        """
        x_NTD = self._add(
            x_NTD, self.attention_norm, self.attention, mask=mask, rotation_T21K=rotation_T21K, cache=cache
        )
        if self.cross_attention is not None:
            if memory_2BGSK is None:
                assert source_BSD is not None, "a block with cross-attention needs a source"
                memory_2BGSK = self.cross_attention.keys_values(source_BSD)
            cross = {"mask": source_mask, "memory_2BGSK": memory_2BGSK}
            x_NTD = self._add(x_NTD, self.cross_attention_norm, self.cross_attention, **cross)
        return self._add(x_NTD, self.feedforward_norm, self.feedforward)

    def _add(self, x_NTD: Tensor, norm: nn.Module, part: nn.Module, **inputs: Any) -> Tensor:
        """The residual stream with what a part adds to it."""
        if self.pre_norm:
            return x_NTD + self.stochastic_depth(part(norm(x_NTD), **inputs))
        return norm(x_NTD + self.stochastic_depth(part(x_NTD, **inputs)))
