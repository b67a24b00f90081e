"""Tensor parallelism (Megatron-LM, arXiv:1909.08053): N ranks compute each block together, on the same samples.

Of the heads, and of the feed-forward's hidden width, each rank has an N-th: the layers into them are split by output
rows, those out of them by input columns, and their outputs are summed over the N ranks: one all-reduce for attention
and one for the feed-forward, in the forward pass and again in the backward pass. Norms, embeddings, heads and the
residual stream are the same on all N. Importing this imports DTensor, which takes a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn import functional as F

from bigtrain.distributed.shards import is_sharded
from bigtrain.errors import ConfigError
from bigtrain.nn.attention import Attention
from bigtrain.nn.block import Block
from bigtrain.nn.feedforward import FeedForward, swiglu
from bigtrain.nn.init import declare, declared


class SectionShard(_StridedShard):
    """Rows in sections (queries, keys, values), each of which is split evenly over the ranks: torch's `_StridedShard`
    where the sections are equally long. `shards.parts_of` finds the runs of rows that a rank has, so on disk, and where
    it is drawn, a parameter has the rows of a whole one in their order.
    """

    sections: tuple[int, ...]  # rows of each

    def __init__(self, sections: Sequence[int]):
        super().__init__(0, split_factor=len(sections))
        self.sections = tuple(sections)

    def _split_tensor(
        self, tensor: Tensor, num_chunks: int, *, with_padding: bool = True, contiguous: bool = True
    ) -> tuple[list[Tensor], list[int]]:
        """As DTensor asks for it: every rank's rows. They are equally many, so nothing is padded."""
        of_sections = [section.chunk(num_chunks) for section in tensor.split(self.sections)]
        return [torch.cat(of_rank) for of_rank in zip(*of_sections, strict=True)], [0] * num_chunks

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SectionShard) and self.sections == other.sections

    def __hash__(self) -> int:
        return hash((type(self), self.sections))

    def __repr__(self) -> str:
        return f"SectionShard({self.sections})"


class _CopyToRanks(torch.autograd.Function):
    """The identity; the gradient is summed over the ranks, of which each knows what its own rows give."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _SumOverRanks(torch.autograd.Function):
    """The sum over the ranks, in place; the gradient is every rank's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.mark_dirty(x)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class _SplitLinear(nn.Linear):
    """A linear layer of which each rank of a mesh has a part, with the parameters of a whole one."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh):
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None, device="meta")
        self.weight, self.bias = whole.weight, whole.bias
        declare(self, **declared(whole))
        self._group = mesh.get_group()


class RowsLinear(_SplitLinear):
    """(…, in) → (…, out / N): this rank's part of every section of the output."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh, sections: Sequence[int]):
        """`sections`: of the output, together `whole.out_features`."""
        super().__init__(whole, mesh)
        placement = SectionShard(sections)
        self.weight = _split(whole.weight, mesh, placement)
        if whole.bias is not None:
            self.bias = _split(whole.bias, mesh, placement)

    def forward(self, x: Tensor) -> Tensor:
        """See the class; `x` is the same on all N ranks, and so is its gradient."""
        bias = None if self.bias is None else _own(self.bias)
        return F.linear(_CopyToRanks.apply(x, self._group), _own(self.weight), bias)  # type: ignore[no-untyped-call]


class ColumnsLinear(_SplitLinear):
    """(…, in / N), this rank's part of the input → (…, out), the same on all N ranks. The bias is whole."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh):
        super().__init__(whole, mesh)
        self.weight = _split(whole.weight, mesh, Shard(1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = _SumOverRanks.apply(F.linear(x, _own(self.weight)), self._group)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


def split_blocks(blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Splits the attention and feed-forward of transformer blocks over the ranks of a mesh, in place; names stay.

    Parameters may be on the meta device, and stay there. Raises ConfigError for blocks of another kind, and where N
    does not divide what it splits.
    """
    found = list(blocks)
    if not found or not all(isinstance(block, Block) for block in found):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.tensor_parallel is {mesh.size()}, but this model is not made of transformer blocks",
            cause="it splits attention heads and feed-forward layers: of transformer, llama, gpt2, bert and seq2seq",
            fix="trainer.tensor_parallel=1",
        )
    for block in found:
        for part in block.children():
            if isinstance(part, Attention):
                _split_attention(part, mesh)
            elif isinstance(part, FeedForward):
                _split_feedforward(part, mesh)


def _split_attention(attention: Attention, mesh: DeviceMesh) -> None:
    ranks, heads, kv_heads = mesh.size(), attention.num_heads, attention.num_kv_heads
    _require_divided("model.num_heads", heads, ranks)
    _require_divided("model.num_kv_heads", kv_heads, ranks)
    rows, kv_rows = heads * attention.head_size, kv_heads * attention.head_size
    if attention.cross:
        attention.query = RowsLinear(attention.query, mesh, [rows])
        attention.key_value = RowsLinear(attention.key_value, mesh, [kv_rows, kv_rows])
    else:
        attention.qkv = RowsLinear(attention.qkv, mesh, [rows, kv_rows, kv_rows])
    attention.projection = ColumnsLinear(attention.projection, mesh)
    attention.num_heads, attention.num_kv_heads = heads // ranks, kv_heads // ranks


def _split_feedforward(feedforward: FeedForward, mesh: DeviceMesh) -> None:
    size = feedforward.projection.in_features
    _require_divided("the feed-forward size (model.feedforward_size)", size, mesh.size())
    sections = [size, size] if feedforward.activation is swiglu else [size]  # gate, value
    feedforward.expansion = RowsLinear(feedforward.expansion, mesh, sections)
    feedforward.projection = ColumnsLinear(feedforward.projection, mesh)


def _require_divided(what: str, number: int, ranks: int) -> None:
    if number % ranks:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.tensor_parallel is {ranks}, which does not divide {what}, {number}",
            fix="give a number that divides the heads, the key/value heads and the feed-forward size",
        )


def _split(parameter: nn.Parameter, mesh: DeviceMesh, placement: Shard | SectionShard) -> nn.Parameter:
    """This rank's part of a parameter that every rank has whole."""
    parts, _ = placement._split_tensor(parameter.detach(), mesh.size(), with_padding=False)
    split = DTensor.from_local(
        parts[mesh.get_local_rank()].contiguous(),
        mesh,
        [placement],
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return nn.Parameter(split, parameter.requires_grad)


def _own(parameter: Tensor) -> Tensor:
    """This rank's part, as a plain tensor whose gradient goes to the parameter."""
    return parameter.to_local() if is_sharded(parameter) else parameter  # type: ignore[operator, no-any-return]
