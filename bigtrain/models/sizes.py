"""How many parameters a backbone has, by formula from its settings: at any size in microseconds, nothing is built.

A new model adds its formula by `@backbone_sizes.register`; without one, whoever asks builds the backbone on the `meta`
device instead. Tests hold each formula against the built model.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NamedTuple

from bigtrain.config.kinds import ModelConfig
from bigtrain.data.base import DataSpec
from bigtrain.models.config import (
    Activation,
    BertConfig,
    Cell,
    LSTMConfig,
    NgramConfig,
    Norm,
    NormPosition,
    Positional,
    Seq2SeqConfig,
    TransformerConfig,
)
from bigtrain.models.vision.config import (
    IMAGENET_DEPTHS,
    VGG_CONVOLUTIONS,
    CNNConfig,
    MLPConfig,
    ResNetConfig,
    VGGConfig,
)


class BackboneSizes(NamedTuple):
    """Numbers in the parameters of a backbone, and the width D that its heads read."""

    embedding: int  # tables of tokens, positions, segments
    blocks: int  # everything else: blocks, norms, hidden layers
    hidden_size: int
    num_blocks: int = 0
    pooler: int = 0  # what is left out where no head reads the pooled vector
    matrices: int = 0  # of `blocks`: in matrices that optimizer=muon takes


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    """Numbers of a linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def feedforward_size(hidden_size: int, activation: str, given: int | None) -> int:
    """Hidden width of the feed-forward part, as `nn/feedforward.py` has it."""
    return given or (-(-8 * hidden_size // 24) * 8 if activation == "swiglu" else 4 * hidden_size)


@singledispatch
def backbone_sizes(config: ModelConfig, spec: DataSpec) -> BackboneSizes | None:
    """Of a model with these settings for this data; None where no formula is registered."""
    return None


@backbone_sizes.register
def _(config: TransformerConfig, spec: DataSpec) -> BackboneSizes:
    width = config.hidden_size
    rows = config.num_embeddings or spec.vocab_size or 1
    keys_values = 2 * (config.num_kv_heads or config.num_heads) * (width // config.num_heads)
    activation = config.activation.value
    size = feedforward_size(width, activation, config.feedforward_size)
    maps = [
        (width, width + keys_values),
        (width, width),
        (width, size * (2 if config.activation is Activation.swiglu else 1)),
        (size, width),
    ]
    norm = width * (2 if config.bias and config.norm is Norm.layernorm else 1)
    block = sum(linear(*shape, config.bias) for shape in maps) + 2 * norm
    positions = config.max_length * width if config.positional is Positional.learned else 0
    matrices = config.num_layers * sum(math.prod(shape) for shape in maps)
    blocks = config.num_layers * block + norm
    return BackboneSizes(rows * width + positions, blocks, width, config.num_layers, matrices=matrices)


@backbone_sizes.register
def _(config: BertConfig, spec: DataSpec) -> BackboneSizes:
    width = config.hidden_size
    size = config.feedforward_size or 4 * width
    maps = [(width, 3 * width), (width, width), (width, size), (size, width)]
    block = sum(linear(*shape) for shape in maps) + 4 * width
    embedding = ((config.num_embeddings or spec.num_embeddings or 1) + config.max_length + 2) * width
    norms = 2 * width * (2 if config.norm_position is NormPosition.pre else 1)
    matrices = config.num_layers * sum(math.prod(shape) for shape in maps)
    blocks = config.num_layers * block + norms
    return BackboneSizes(embedding, blocks, width, config.num_layers, linear(width, width), matrices)


@backbone_sizes.register
def _(config: Seq2SeqConfig, spec: DataSpec) -> BackboneSizes:
    width = config.hidden_size
    size = feedforward_size(width, config.activation.value, config.feedforward_size)
    widened = size * (2 if config.activation is Activation.swiglu else 1)
    maps = [(width, 3 * width), (width, width), (width, widened), (size, width)]
    cross = [(width, width), (width, 2 * width), (width, width)]
    encoder = sum(linear(*shape) for shape in maps) + 4 * width
    decoder = encoder + sum(linear(*shape) for shape in cross) + 2 * width
    tables = 1 if config.tie_embeddings else 2
    positions = 2 * config.max_length * width if config.positional is Positional.learned else 0
    last_norms = 4 * width if config.norm_position is NormPosition.pre else 0
    matrices = config.num_layers * sum(math.prod(shape) for shape in (*maps, *maps, *cross))
    embedding = tables * (spec.vocab_size or 1) * width + positions
    blocks = config.num_layers * (encoder + decoder) + last_norms
    return BackboneSizes(embedding, blocks, width, 2 * config.num_layers, matrices=matrices)


@backbone_sizes.register
def _(config: LSTMConfig, spec: DataSpec) -> BackboneSizes:
    hidden, directions = config.hidden_size, 2 if config.bidirectional else 1
    gates = {Cell.lstm: 4, Cell.gru: 3, Cell.rnn: 1}[config.cell] * hidden
    embedding_size, width = config.embedding_size or hidden, hidden * directions
    inputs = [embedding_size, *[width] * (config.num_layers - 1)]
    matrices = directions * sum(gates * (size + hidden) for size in inputs)
    blocks = matrices + directions * config.num_layers * 2 * gates
    if config.tie_embeddings and embedding_size != width:
        blocks, matrices = blocks + linear(width, embedding_size), matrices + width * embedding_size
        width = embedding_size
    embedding = (spec.vocab_size or 1) * embedding_size
    return BackboneSizes(embedding, blocks, width, config.num_layers, matrices=matrices)


@backbone_sizes.register
def _(config: NgramConfig, spec: DataSpec) -> BackboneSizes:
    return BackboneSizes(0, 0, config.order - 1)


@backbone_sizes.register
def _(config: CNNConfig, spec: DataSpec) -> BackboneSizes:
    channels, height, width = spec.input_shape or (1, 1, 1)
    maps = vectors = 0
    for stage_width in config.widths:
        found = _convolutions(channels, stage_width, config.convolutions_per_stage, config.kernel_size)
        maps, vectors = maps + found, vectors + _vectors(stage_width, config.convolutions_per_stage, config.batch_norm)
        channels, height, width = stage_width, height // min(2, height), width // min(2, width)
    maps += channels * height * width * config.hidden_size
    blocks = maps + vectors + config.hidden_size
    return BackboneSizes(0, blocks, config.hidden_size, len(config.widths), matrices=maps)


@backbone_sizes.register
def _(config: VGGConfig, spec: DataSpec) -> BackboneSizes:
    channels, height, width = spec.input_shape or (1, 1, 1)
    maps = vectors = 0
    for times, convolutions in zip((1, 2, 4, 8, 8), VGG_CONVOLUTIONS[config.depth], strict=True):
        maps += _convolutions(channels, times * config.width, convolutions, 3)
        vectors += _vectors(times * config.width, convolutions, config.batch_norm)
        channels, height, width = times * config.width, height // min(2, height), width // min(2, width)
    size = config.hidden_size
    maps += channels * min(7, height) * min(7, width) * size + size * size
    return BackboneSizes(0, maps + vectors + 2 * size, size, 5, matrices=maps)


@backbone_sizes.register
def _(config: ResNetConfig, spec: DataSpec) -> BackboneSizes:
    channels, height, width = spec.input_shape or (1, 1, 1)
    imagenet_form = config.depth in IMAGENET_DEPTHS
    stem = config.stem
    if stem == "auto":
        stem = "7x7" if imagenet_form and min(height, width) >= 64 else "3x3"
    projection = imagenet_form if config.projection is None else config.projection
    stages: tuple[int, ...] = ((config.depth - 2) // 6,) * 3
    if imagenet_form:
        stages = (2, 2, 2, 2) if config.depth == 18 else (3, 4, 6, 3)
    before = first = config.width or (64 if imagenet_form else 16)
    maps = channels * first * (49 if stem == "7x7" else 9)
    norms = 2 * first
    for stage, count in enumerate(stages):
        size = first << stage
        for index in range(count):
            after = 4 * size if config.depth == 50 else size
            if config.depth == 50:
                maps, norms = maps + before * size + 9 * size * size + size * after, norms + 4 * size + 2 * after
            else:
                maps, norms = maps + 9 * before * size + 9 * size * size, norms + 4 * size
            if projection and ((stage > 0 and index == 0) or before != after):
                maps, norms = maps + before * after, norms + 2 * after
            before = after
    return BackboneSizes(0, maps + norms, before, sum(stages), matrices=maps)


@backbone_sizes.register
def _(config: MLPConfig, spec: DataSpec) -> BackboneSizes:
    sizes = [math.prod(spec.input_shape or (1,)), *config.widths]
    matrices = sum(map(math.prod, zip(sizes, sizes[1:], strict=False)))
    vectors = sum(size * (2 if config.batch_norm else 1) for size in config.widths)
    return BackboneSizes(0, matrices + vectors, sizes[-1], len(config.widths), matrices=matrices)


def _convolutions(channels: int, width: int, count: int, kernel: int) -> int:
    return kernel * kernel * (channels * width + (count - 1) * width * width)


def _vectors(width: int, count: int, batch_norm: bool) -> int:
    """Biases, or the two vectors of each batch norm in their place."""
    return count * width * (2 if batch_norm else 1)
