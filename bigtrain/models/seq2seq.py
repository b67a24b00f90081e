"""EncoderDecoder: the transformer of "Attention Is All You Need" (arXiv:1706.03762), and its decoding state.

Block, positions and the cache live in `nn/`; the output layer is a head; `tasks/beam_search.py` searches for targets.

Shapes: B sources, N rows of the decoder (B, or several for each source), T target time, S source time, D model width,
H heads, K head width, M positions in the cache, L layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.models.config import NormPosition, Seq2SeqConfig
from bigtrain.models.tokens import require_tokens
from bigtrain.nn.attention import Attention
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.block import Block
from bigtrain.nn.cache import KeyValueCache
from bigtrain.nn.features import Features, padding_mask
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size
from bigtrain.nn.init import normal_embedding, xavier_std
from bigtrain.nn.norm import LayerNorm
from bigtrain.nn.positional import added_positions


class Memory(NamedTuple):
    """The encoded sources as the decoder reads them: keys and values for each layer's cross-attention, and the mask."""

    keys_values: Tensor  # (L, 2, B, H, S, K)
    mask: Tensor | None  # (B, 1, 1, S) bool, true at the source's tokens

    def select(self, sources: Tensor) -> Memory:
        """The sources with these indices, int64."""
        return Memory(self.keys_values[:, :, sources], None if self.mask is None else self.mask[sources])


class DecodingState(NamedTuple):
    """The cache of the targets so far, (L, N, H, M, K), and the memory of their sources."""

    cache: KeyValueCache
    memory: Memory

    def select(self, rows: Tensor) -> DecodingState:
        """The rows with these indices (int64), repeated or left out at will, provided that every source keeps equally
        many or none, and that the sources stay in order.
        """
        num_rows = self.cache.keys.shape[1]
        per_source = num_rows // self.memory.keys_values.shape[2]
        sources = rows[::per_source] // per_source
        memory = self.memory if len(rows) == num_rows else self.memory.select(sources)
        return DecodingState(self.cache.select(rows), memory)


class EncoderDecoder(Backbone):
    """Target tokens (B, T) and their source (B, S), int64 → hidden (B, T, D) of the decoder.

    With pre-norm, a last norm follows the encoder's blocks, and another the decoder's.
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
        positional = (config.positional.value, config.max_length, width)
        self.source_positions = added_positions(*positional, std=width**-0.5)
        self.positions = added_positions(*positional, std=width**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        encoder = [_block(config, decoder=False) for _ in range(config.num_layers)]
        decoder = [_block(config, decoder=True) for _ in range(config.num_layers)]
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
        """With a state (of `start`), `inputs` are the T target tokens after those already seen; `source` is ignored.

        `lengths` change nothing: no position of a target sees the padding after it. Raises ValueError past
        `max_length`, or past the room in the state.
        """
        start = 0 if state is None else state.cache.length
        room = self.max_length if state is None else state.cache.room
        if start + inputs_NT.shape[1] > room:
            raise ValueError(f"{start + inputs_NT.shape[1]} tokens, but there is room for {room} (model.max_length)")
        if state is None:
            assert source is not None, "an encoder-decoder needs a source, or a state that holds one"
            source_BSD, mask = self.encode(source, source_lengths)
        else:
            mask = state.memory.mask
        x_NTD = self.dropout(self.positions(self.token_embedding(inputs_NT), start))
        for index, block in enumerate(self.decoder):
            if state is None:
                x_NTD = block(x_NTD, source_BSD=source_BSD, source_mask=mask)
            else:
                memory = state.memory.keys_values[index]
                x_NTD = block(x_NTD, cache=state.cache.layer(index), memory_2BGSK=memory, source_mask=mask)
        next_state = None if state is None else state._replace(cache=state.cache.extended(inputs_NT.shape[1]))
        return Features(hidden=self.norm(x_NTD), pooled=None, state=next_state)

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The encoded source (B, S, D), and the mask (B, 1, 1, S), true at its tokens, or None without padding."""
        mask = None if source_lengths_B is None else padding_mask(source_lengths_B, source_BS.shape[1])
        x_BSD = self.dropout(self.source_positions(self.source_embedding(source_BS), 0))
        for block in self.encoder:
            x_BSD = block(x_BSD, mask=mask)
        return self.source_norm(x_BSD), mask

    def start(self, source_BS: Tensor, source_lengths_B: Tensor, rows: int, max_length: int) -> DecodingState:
        """The state before the first target token, of `rows` targets for each source, up to `max_length` tokens long.

        Raises ValueError for more positions than the model has.
        """
        if max_length > self.max_length:
            raise ValueError(f"max_length is {max_length}; this model has {self.max_length} positions")
        source_BSD, mask = self.encode(source_BS, source_lengths_B)
        memory = torch.stack([block.cross_attention.keys_values(source_BSD) for block in self.decoder])
        layers, _, batch, heads, _, head_size = memory.shape
        shape = (layers, batch * rows, heads, max_length, head_size)
        cache = KeyValueCache.empty(*shape, dtype=memory.dtype, device=memory.device)
        return DecodingState(cache, Memory(memory, mask))

    @property
    def encoder(self) -> list[nn.Module]:
        """The first half of the blocks."""
        return list(self.blocks)[: len(self.blocks) // 2]

    @property
    def decoder(self) -> list[nn.Module]:
        """The second half of the blocks."""
        return list(self.blocks)[len(self.blocks) // 2 :]


def _block(config: Seq2SeqConfig, *, decoder: bool) -> Block:
    """Weights start from N(0, 2 / (in + out)), where queries, keys and values are one matrix: as `nn.Transformer`'s."""
    width, heads, activation = config.hidden_size, config.num_heads, config.activation.value
    common: dict[str, Any] = {"bias": True, "dropout": config.dropout}
    attention = {**common, "std": xavier_std(width, 3 * width), "projection_std": xavier_std(width, width)}
    size = config.feedforward_size or default_feedforward_size(width, activation)
    std = xavier_std(width, size)
    parts: dict[str, nn.Module] = {
        "attention": Attention(width, heads, causal=decoder, **attention),
        "attention_norm": LayerNorm(width, config.norm_epsilon),
    }
    if decoder:
        parts["cross_attention"] = Attention(width, heads, cross=True, **attention)
        parts["cross_attention_norm"] = LayerNorm(width, config.norm_epsilon)
    parts["feedforward"] = FeedForward(width, size, activation, **common, std=std, projection_std=std)
    parts["feedforward_norm"] = LayerNorm(width, config.norm_epsilon)
    return Block(pre_norm=config.norm_position is NormPosition.pre, **parts)


def _last_norm(config: Seq2SeqConfig) -> nn.Module:
    if config.norm_position is NormPosition.post:
        return nn.Identity()
    return LayerNorm(config.hidden_size, config.norm_epsilon)
