"""Cross-attention: positions of a decoder look at what an encoder remembers of the source.

Shapes: B batch, T target time, S source time, D model width, H heads, K head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from bigtrain.nn.attention import attend
from bigtrain.nn.init import normal_linear


class CrossAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762) with queries from one sequence, keys and values from another.

    `dropout` drops attention weights, and what comes out.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, bias: bool, dropout: float, std: float, projection_std: float
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.query = normal_linear(hidden_size, hidden_size, bias=bias, std=std)
        self.key_value = normal_linear(hidden_size, 2 * hidden_size, bias=bias, std=std)
        self.projection = normal_linear(hidden_size, hidden_size, bias=bias, std=projection_std)
        self.dropout = nn.Dropout(dropout)

    def remember(self, source_BSD: Tensor) -> Tensor:
        """Keys and values of the encoded source, (2, B, H, S, K): the same for every target position."""
        key_value = self.key_value(source_BSD).unflatten(-1, (2, self.num_heads, -1))
        return key_value.permute(2, 0, 3, 1, 4)

    def forward(self, x_NTD: Tensor, memory_2BHSK: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
        """(N, T, D) → (N, T, D); `mask` is bool, true where the source has a token.

        N is B, or a multiple of it: consecutive rows then share a source, as the beams of a search do.
        """
        keys, values = memory_2BHSK.unbind()
        q_NTHK = self.query(x_NTD).unflatten(-1, (self.num_heads, -1))
        # A target position knows nothing of the others here, so rows with one source may stand side by side in time.
        q_BHTK = q_NTHK.reshape(len(keys), -1, *q_NTHK.shape[2:]).transpose(1, 2)
        dropout = self.attention_dropout if self.training else 0.0
        y_BTD = attend(q_BHTK.to(keys.dtype), keys, values, mask=mask_B11S, dropout=dropout)
        return self.dropout(self.projection(y_BTD.reshape(x_NTD.shape)))
