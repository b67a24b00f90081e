"""Multi-head attention (arXiv:1706.03762): causal, bidirectional or cross.

Shapes: B batch, N rows of queries, T time, S source time, D model width, H query heads, G key/value heads, K head
width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.nn import cpu
from bigtrain.nn.autocast import without_autocast
from bigtrain.nn.cache import LayerCache
from bigtrain.nn.init import normal_linear
from bigtrain.nn.norm import rms_norm
from bigtrain.nn.positional import rotate


class Attention(nn.Module):
    """Each position takes a weighted mean over the values of the positions that it sees.

    It sees all positions of its own sequence; `causal`: those up to itself; `cross`: all positions of another
    sequence, the source. `num_kv_heads` < `num_heads` shares each key/value head among H/G consecutive query heads
    (arXiv:2305.13245). `qk_norm_epsilon`: queries and keys are divided by their root mean square over K, without a
    trained scale (arXiv:2302.05442). `dropout` is of outputs, `attention_dropout` (default: the same) of attention
    weights. Weights start with standard deviation `std`, those of the output projection with `projection_std`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        causal: bool = False,
        cross: bool = False,
        bias: bool,
        dropout: float,
        attention_dropout: float | None = None,
        qk_norm_epsilon: float | None = None,
        std: float,
        projection_std: float,
    ):
        super().__init__()
        assert not (cross and (causal or qk_norm_epsilon)), "causal and qk_norm_epsilon are for self-attention"
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_size = hidden_size // num_heads
        self.causal, self.cross = causal, cross
        self.qk_norm_epsilon = qk_norm_epsilon
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        kv_size = 2 * self.num_kv_heads * self.head_size
        if cross:
            self.query = normal_linear(hidden_size, hidden_size, bias=bias, std=std)
            self.key_value = normal_linear(hidden_size, kv_size, bias=bias, std=std)
        else:  # one product for queries, keys and values, in this order along the output
            self.qkv = normal_linear(hidden_size, hidden_size + kv_size, bias=bias, std=std)
        self.projection = normal_linear(hidden_size, hidden_size, bias=bias, std=projection_std)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_NTD: Tensor,
        *,
        mask: Tensor | None = None,
        rotation_T21K: Tensor | None = None,
        cache: LayerCache | None = None,
        memory_2BGSK: Tensor | None = None,
    ) -> Tensor:
        """(N, T, D) → (N, T, D).

        `mask` is bool, true where a position is seen, at least one for each query, and broadcasts to (B, H, T, S); it
        stands in place of the causal rule. `rotation` comes from `RotaryPositions`. With a `cache`, `x` are the T
        positions after those that it holds. `memory`, of a cross-attention: what `keys_values` returns; N is B or a
        multiple of it, and consecutive rows share a source, as the beams of a search do.
        """
        causal = self.causal and mask is None  # of one position too: a comparison with 1 would be a guard for exports
        if memory_2BGSK is not None:
            keys, values = memory_2BGSK.unbind()
            queries_NTHK = self.query(x_NTD).unflatten(-1, (self.num_heads, -1))
            # Target positions don't see each other here, so the rows of one source may stand side by side in time.
            queries = queries_NTHK.reshape(keys.shape[0], -1, *queries_NTHK.shape[2:]).transpose(1, 2)
        else:
            queries, keys, values = self._queries_keys_values(x_NTD, rotation_T21K)
        if cache is not None:
            keys, values = cache.extend(keys, values)
            if causal and cache.start:
                causal, length = False, x_NTD.shape[1]
                mask = _causal_mask(length, cache.start, x_NTD.device) if length > 1 else None
        dropout = self.attention_dropout if self.training else 0.0
        y_BTD = attend(
            queries.to(values.dtype), keys.to(values.dtype), values, mask=mask, dropout=dropout, causal=causal
        )
        if memory_2BGSK is not None:
            y_BTD = y_BTD.view(*x_NTD.shape[:-1], -1)  # narrower than x where heads are split over ranks
        return self.dropout(self.projection(y_BTD))

    def keys_values(self, source_BSD: Tensor) -> Tensor:
        """Keys and values of a source for cross-attention, (2, B, G, S, K): the same for every target position."""
        key_value = self.key_value(source_BSD).unflatten(-1, (2, self.num_kv_heads, -1))
        return key_value.permute(2, 0, 3, 1, 4)

    def _queries_keys_values(self, x_BTD: Tensor, rotation_T21K: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, T, K), (B, G, T, K), (B, G, T, K), normalised and rotated."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x_BTD).view(*x_BTD.shape[:2], heads + 2 * kv_heads, self.head_size)
        if self.qk_norm_epsilon is None and rotation_T21K is None:
            return qkv.transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)
        # Queries and keys are normalised and rotated as one tensor: half the calls.
        qk, values = qkv.split((heads + kv_heads, kv_heads), dim=2)
        if self.qk_norm_epsilon is not None:
            qk = rms_norm(qk, None, self.qk_norm_epsilon)
        if rotation_T21K is not None:
            qk = rotate(qk, rotation_T21K)
        queries, keys = qk.transpose(1, 2).split((heads, kv_heads), dim=1)
        return queries, keys, values.transpose(1, 2)


def attend(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """softmax(q · k / sqrt(K)) · v, the heads side by side: (B, T, D), in the dtype of q, k and v, under autocast too.

    `mask` is bool and broadcasts to (B, H, T, S), true where seen; `causal` stands in place of one, where T = S.
    """
    with without_autocast(q_BHTK.device):
        if cpu.attends_by_products(q_BHTK, k_BGSK):
            if k_BGSK.shape[1] != q_BHTK.shape[1]:
                group = q_BHTK.shape[1] // k_BGSK.shape[1]
                k_BGSK, v_BGSK = (x.repeat_interleave(group, dim=1) for x in (k_BGSK, v_BGSK))
            bias = cpu.attention_bias(q_BHTK, mask, causal)
            y_BHTK = cpu.AttentionFunction.apply(q_BHTK, k_BGSK, v_BGSK, bias, dropout)
            return y_BHTK.transpose(1, 2).flatten(2)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BGSK,
            v_BGSK,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            enable_gqa=k_BGSK.shape[1] != q_BHTK.shape[1],
        )
    return y_BHTK.transpose(1, 2).flatten(2)


def _causal_mask(length: int, start: int, device: torch.device) -> Tensor:
    """(T, start+T) bool, true where seen. `is_causal` aligns to the top left, so it can't express this."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
