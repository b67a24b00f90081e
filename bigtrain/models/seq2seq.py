"""EncoderDecoder: the transformer of "Attention Is All You Need", and the state that it decodes with.

Attention, feed-forward and positions live in `nn/`; the output layer is a head; the search for the best target is
`tasks/beam_search.py`'s business.

Shapes: B sources, N rows of the decoder (B, or several for each source), T target time, S source time, D model width,
H heads, K head width, M positions in the cache, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import NormPosition, Positional, Seq2SeqConfig
from bigtrain.models.tokens import require_tokens
from bigtrain.nn.attention import CausalSelfAttention, LayerCache, SelfAttention
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.cross_attention import CrossAttention
from bigtrain.nn.features import Features, padding_mask
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size
from bigtrain.nn.init import normal_embedding, xavier_std
from bigtrain.nn.positional import LearnedPositions, SinusoidalPositions


class Memory(NamedTuple):
    """What the encoder says of each source: keys and values of every layer, and where it has tokens."""

    keys_values: Tensor  # (L, 2, B, H, S, K)
    mask: Tensor | None  # (B, 1, 1, S) bool

    def select(self, sources: Tensor) -> Memory:
        """The sources with these indices."""
        return Memory(self.keys_values[:, :, sources], None if self.mask is None else self.mask[sources])


class DecodingState(NamedTuple):
    """Keys and values of the targets so far, (L, N, H, M, K) each, of which `length` positions are filled; and the
    sources' memory. The caches are written in place and shared by successive states.
    """

    keys: Tensor
    values: Tensor
    memory: Memory
    length: int

    def layer(self, index: int) -> LayerCache:
        """Layer `index`'s part."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def select(self, rows: Tensor) -> DecodingState:
        """Rows in another order, perhaps several times, perhaps not at all; of equally many for each source that is
        left, and the sources in their order.
        """
        per_source = self.keys.shape[1] // self.memory.keys_values.shape[2]
        sources = rows[::per_source] // per_source
        all_left = len(rows) == self.keys.shape[1]
        keys, values = (_selected(cache, rows, self.length) for cache in (self.keys, self.values))
        return DecodingState(keys, values, self.memory if all_left else self.memory.select(sources), self.length)


class EncoderBlock(nn.Module):
    """Self-attention over the whole source, then feed-forward; each with a residual connection and a norm."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        width = config.hidden_size
        self.pre_norm = config.norm_position is NormPosition.pre
        self.attention = SelfAttention(width, config.num_heads, **_attention_settings(config))
        self.attention_norm = nn.LayerNorm(width, config.norm_epsilon)
        self.feedforward = _feedforward(config)
        self.feedforward_norm = nn.LayerNorm(width, config.norm_epsilon)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """(B, S, D) → (B, S, D)."""
        x_BSD = _add(x_BSD, lambda x: self.attention(x, mask_B11S), self.attention_norm, self.pre_norm)
        return _add(x_BSD, self.feedforward, self.feedforward_norm, self.pre_norm)


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the source, feed-forward; each with a residual connection and a norm."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        settings = _attention_settings(config)
        self.pre_norm = config.norm_position is NormPosition.pre
        self.attention = CausalSelfAttention(width, heads, heads, qk_norm_epsilon=None, **settings)
        self.attention_norm = nn.LayerNorm(width, config.norm_epsilon)
        # Queries, keys and values start alike in both attentions.
        self.cross_attention = CrossAttention(width, heads, **settings)
        self.cross_attention_norm = nn.LayerNorm(width, config.norm_epsilon)
        self.feedforward = _feedforward(config)
        self.feedforward_norm = nn.LayerNorm(width, config.norm_epsilon)

    def forward(
        self,
        x_NTD: Tensor,
        source_BSD: Tensor | None,
        mask_B11S: Tensor | None,
        memory_2BHSK: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(N, T, D) → (N, T, D). The source comes encoded, or as what `cross_attention` remembers of it."""
        if memory_2BHSK is None:
            assert source_BSD is not None
            memory_2BHSK = self.cross_attention.remember(source_BSD)
        x_NTD = _add(x_NTD, lambda x: self.attention(x, cache=cache), self.attention_norm, self.pre_norm)
        cross = lambda x: self.cross_attention(x, memory_2BHSK, mask_B11S)  # noqa: E731
        x_NTD = _add(x_NTD, cross, self.cross_attention_norm, self.pre_norm)
        return _add(x_NTD, self.feedforward, self.feedforward_norm, self.pre_norm)


class EncoderDecoder(Backbone):
    """Target tokens (B, T) and their source (B, S), int64 → hidden (B, T, D) of the decoder.

    With norms before each part there is one more after the last block of the encoder, and of the decoder.
    Raises ConfigError where the data has no tokens, or texts longer than `config.max_length`.
    """

    def __init__(self, config: Seq2SeqConfig, data_spec: DataSpec):
        super().__init__()
        width = config.hidden_size
        vocab_size = require_tokens("seq2seq", data_spec, config.max_length)
        self.hidden_size = width
        self.max_length: int = config.max_length
        self.token_embedding = normal_embedding(vocab_size, width, std=width**-0.5)
        self.source_embedding = self.token_embedding
        if not config.tie_embeddings:
            self.source_embedding = normal_embedding(vocab_size, width, std=width**-0.5)
        self.source_positions, self.positions = _positions(config), _positions(config)
        self.dropout = nn.Dropout(config.dropout)
        encoder = [EncoderBlock(config) for _ in range(config.num_layers)]
        decoder = [DecoderBlock(config) for _ in range(config.num_layers)]
        self.blocks = nn.ModuleList([*encoder, *decoder])
        self.source_norm, self.norm = _last_norm(config), _last_norm(config)

    def forward(
        self,
        inputs_NT: Tensor,
        state: DecodingState | None = None,
        *,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> Features:
        """With a state (of `start`) `inputs` are the T target tokens after those already seen, and the source is known.

        What is right of a target's length no position before it sees, so `lengths` change nothing. Raises ValueError
        past `max_length`, or past the room in the state.
        """
        start = 0 if state is None else state.length
        room = self.max_length if state is None else state.keys.shape[3]
        if start + inputs_NT.shape[1] > room:
            raise ValueError(f"{start + inputs_NT.shape[1]} tokens, but there is room for {room} (model.max_length)")
        if state is None:
            assert source is not None, "an encoder-decoder needs a source, or a state that remembers one"
            source_BSD, mask = self.encode(source, source_lengths)
        else:
            mask = state.memory.mask
        x_NTD = self.dropout(self.positions(self.token_embedding(inputs_NT), start))
        for index, block in enumerate(self.decoder):
            if state is None:
                x_NTD = block(x_NTD, source_BSD, mask)
            else:
                x_NTD = block(x_NTD, None, mask, state.memory.keys_values[index], state.layer(index))
        next_state = None if state is None else state._replace(length=start + inputs_NT.shape[1])
        return Features(hidden=self.norm(x_NTD), pooled=None, state=next_state)

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The encoded source (B, S, D), and the mask (B, 1, 1, S) of its tokens; None where there is no padding."""
        mask = None if source_lengths_B is None else padding_mask(source_lengths_B, source_BS.shape[1])
        x_BSD = self.dropout(self.source_positions(self.source_embedding(source_BS), 0))
        for block in self.encoder:
            x_BSD = block(x_BSD, mask)
        return self.source_norm(x_BSD), mask

    def start(self, source_BS: Tensor, source_lengths_B: Tensor, rows: int, max_length: int) -> DecodingState:
        """The state before the first target token, of `rows` targets for each source, up to `max_length` tokens long.

        Raises ValueError for more positions than the model has.
        """
        if max_length > self.max_length:
            raise ValueError(f"max_length is {max_length}; this model has {self.max_length} positions")
        source_BSD, mask = self.encode(source_BS, source_lengths_B)
        memory = torch.stack([block.cross_attention.remember(source_BSD) for block in self.decoder])
        layers, _, batch, heads, _, head_size = memory.shape
        shape = (layers, batch * rows, heads, max_length, head_size)
        keys, values = (torch.zeros(shape, dtype=memory.dtype, device=memory.device) for _ in range(2))
        return DecodingState(keys, values, Memory(memory, mask), length=0)

    @property
    def encoder(self) -> list[nn.Module]:
        """The first half of the blocks."""
        return list(self.blocks)[: len(self.blocks) // 2]

    @property
    def decoder(self) -> list[nn.Module]:
        """The second half of the blocks."""
        return list(self.blocks)[len(self.blocks) // 2 :]


def _add(x: Tensor, part: Callable[[Tensor], Tensor], norm: nn.Module, pre_norm: bool) -> Tensor:
    return x + part(norm(x)) if pre_norm else norm(x + part(x))


def _attention_settings(config: Seq2SeqConfig) -> dict:
    """Queries, keys and values are drawn as one matrix, as `torch.nn.Transformer` does it."""
    width = config.hidden_size
    std, projection_std = xavier_std(width, 3 * width), xavier_std(width, width)
    return {"bias": True, "dropout": config.dropout, "std": std, "projection_std": projection_std}


def _feedforward(config: Seq2SeqConfig) -> FeedForward:
    width, activation = config.hidden_size, config.activation.value
    size = config.feedforward_size or default_feedforward_size(width, activation)
    std = xavier_std(width, size)
    return FeedForward(width, size, activation, bias=True, dropout=config.dropout, std=std, projection_std=std)


def _positions(config: Seq2SeqConfig) -> nn.Module:
    if config.positional is Positional.learned:
        return LearnedPositions(config.max_length, config.hidden_size, std=config.hidden_size**-0.5)
    return SinusoidalPositions(config.max_length, config.hidden_size)


def _last_norm(config: Seq2SeqConfig) -> nn.Module:
    if config.norm_position is NormPosition.post:
        return nn.Identity()
    return nn.LayerNorm(config.hidden_size, config.norm_epsilon)


def _selected(cache_LNHMK: Tensor, rows: Tensor, length: int) -> Tensor:
    """Only what is filled is copied."""
    layers, _, *shape = cache_LNHMK.shape
    selected = cache_LNHMK.new_zeros((layers, len(rows), *shape))
    selected[:, :, :, :length] = cache_LNHMK[:, :, :, :length].index_select(1, rows)
    return selected
