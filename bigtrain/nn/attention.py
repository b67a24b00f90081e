"""Self-attention: causal, with grouped key/value heads and the cache it decodes with; and over a whole text.

Shapes: B batch, T time, D model width, H query heads, G key/value heads, K head width, M positions in the
cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.nn.autocast import without_autocast
from bigtrain.nn.init import normal_linear
from bigtrain.nn.norm import rms_norm
from bigtrain.nn.positional import rotate


class LayerCache(NamedTuple):
    """One layer's keys and values (B, G, M, K), preallocated and written in place; `start` positions are
    filled.
    """

    keys: Tensor
    values: Tensor
    start: int

    def extend(self, keys_BGTK: Tensor, values_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Writes T more positions; returns everything up to them, (B, G, start+T, K) each."""
        end = self.start + keys_BGTK.shape[2]
        self.keys[:, :, self.start : end] = keys_BGTK
        self.values[:, :, self.start : end] = values_BGTK
        return self.keys[:, :, :end], self.values[:, :, :end]


class CausalSelfAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762) in which position t sees positions up to t.

    `num_kv_heads` < `num_heads` shares each key/value head among H/G consecutive query heads
    (arXiv:2305.13245). `qk_norm` divides queries and keys by their root mean square over K, with no trained
    scale.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        bias: bool,
        qk_norm_epsilon: float | None,
        dropout: float,
        std: float,
        projection_std: float,
    ):
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size = hidden_size // num_heads
        self.qk_norm_epsilon = qk_norm_epsilon
        self.attention_dropout = dropout
        # One product for queries, keys and values, in this order along the output.
        self.qkv = normal_linear(hidden_size, (num_heads + 2 * num_kv_heads) * self.head_size, bias=bias, std=std)
        self.projection = normal_linear(hidden_size, hidden_size, bias=bias, std=projection_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, rotation_2T1K: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) → (B, T, D). `rotation` comes from `RotaryPositions`; with a cache, T more positions."""
        batch, length, _ = x_BTD.shape
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x_BTD).view(batch, length, heads + 2 * kv_heads, self.head_size)
        if cache is None and _is_faster_in_fp32(qkv):
            qkv = qkv.float()
        # Queries and keys are normalised and turned as one tensor: half the calls.
        qk, v = qkv.split((heads + kv_heads, kv_heads), dim=2)
        if self.qk_norm_epsilon is not None:
            qk = rms_norm(qk, None, self.qk_norm_epsilon)
        if rotation_2T1K is not None:
            qk = rotate(qk, rotation_2T1K)
        q, k = qk.transpose(1, 2).split((heads, kv_heads), dim=1)
        v = v.transpose(1, 2)
        mask = None
        if cache is not None:
            k, v = cache.extend(k, v)
            if cache.start and length > 1:
                mask = _causal_mask(length, cache.start, x_BTD.device)
        dropout = self.attention_dropout if self.training else 0.0
        causal = mask is None and length > 1
        y_BTD = attend(q.to(v.dtype), k.to(v.dtype), v, mask=mask, dropout=dropout, causal=causal)
        return self.dropout(self.projection(y_BTD))


class SelfAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762) in which every position sees all of them, but for those that are masked.

    `attention_dropout` drops attention weights, `dropout` what comes out; by default both by the same probability.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        bias: bool,
        dropout: float,
        std: float,
        projection_std: float,
        attention_dropout: float | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        # One product for queries, keys and values, in this order along the output.
        self.qkv = normal_linear(hidden_size, 3 * hidden_size, bias=bias, std=std)
        self.projection = normal_linear(hidden_size, hidden_size, bias=bias, std=projection_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None = None) -> Tensor:
        """(B, T, D) → (B, T, D). `mask` is bool, true where a position is seen, at least one in each row."""
        batch, length, _ = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, length, 3 * self.num_heads, self.head_size)
        if _is_faster_in_fp32(qkv):
            qkv = qkv.float()
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        y_BTD = attend(q, k, v, mask=mask_B11T, dropout=self.attention_dropout if self.training else 0.0)
        return self.dropout(self.projection(y_BTD))


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


def _is_faster_in_fp32(qkv_BTHK: Tensor) -> bool:
    """Whether attention over bf16 pays for the conversion to fp32: on CPUs, for short sequences.

    PyTorch 2.13's bf16 kernel has a backward pass with a large fixed cost per head. Forward and backward on
    one AMX core, bf16 against fp32 with its conversions: T 64, K 32: 7.4 / 1.6 ms; T 128, K 32: 42 / 15; T
    256, K 32: 30 / 22; T 256, K 64: 18 / 20; T 512, K 64: 82 / 113.
    """
    _, length, _, head_size = qkv_BTHK.shape
    return qkv_BTHK.device.type == "cpu" and qkv_BTHK.dtype == torch.bfloat16 and length * head_size < 256 * 64


def _causal_mask(length: int, start: int, device: torch.device) -> Tensor:
    """(T, start+T) bool, true where seen. `is_causal` aligns to the top left, so it can't say this."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
