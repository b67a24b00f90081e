"""Matrices that are split over ranks by rows, each gathered on one rank and split again: two all-to-alls."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class RowExchange:
    """Of N ranks that hold the parts of `wholes`, sharded along their first axis over one mesh, rank i mod N is the
    owner of tensor i. Under HSDP each replica exchanges by itself.
    """

    def __init__(self, wholes: list[Any], dtype: torch.dtype):
        """`dtype`: of what is exchanged."""
        mesh, placements = wholes[0].device_mesh, wholes[0].placements
        axis = next(axis for axis, placement in enumerate(placements) if placement.is_shard(0))
        self._group = mesh.get_group(axis)
        self._rank, self._ranks = mesh.get_local_rank(axis), mesh.size(axis)
        self._shapes = [tuple(whole.shape) for whole in wholes]
        self._dtype, self._device = dtype, wholes[0].device

    def gather(self, parts: list[Tensor]) -> list[Tensor]:
        """This rank's parts of all tensors → the whole tensors that this rank owns."""
        sent = [parts[owner :: self._ranks] for owner in range(self._ranks)]
        received = self._exchange(sent, [self._part_shapes(rank, self._rank) for rank in range(self._ranks)])
        return [torch.cat(of_one) for of_one in zip(*received, strict=True)]

    def scatter(self, owned: list[Tensor]) -> list[Tensor]:
        """The tensors that this rank owns → its parts of all tensors."""
        split = [tensor.split(self._rows_by_rank(tensor.shape[0])) for tensor in owned]
        sent = [[parts[rank] for parts in split] for rank in range(self._ranks)]
        received = self._exchange(sent, [self._part_shapes(self._rank, owner) for owner in range(self._ranks)])
        return [received[index % self._ranks][index // self._ranks] for index in range(len(self._shapes))]

    def _part_shapes(self, rank: int, owner: int) -> list[tuple[int, ...]]:
        """Shapes of a rank's parts of the tensors that `owner` owns."""
        owned = self._shapes[owner :: self._ranks]
        return [(self._rows_by_rank(rows)[rank], *others) for rows, *others in owned]

    def _rows_by_rank(self, rows: int) -> list[int]:
        """As `torch.chunk` cuts them: equally many, and fewer or none on the last ranks."""
        chunk = -(-rows // self._ranks)
        return [max(0, min(rows - rank * chunk, chunk)) for rank in range(self._ranks)]

    def _exchange(self, sent: list[list[Tensor]], shapes: list[list[tuple[int, ...]]]) -> list[list[Tensor]]:
        """Sends `sent[r]` to rank r; returns what each rank has sent here, which has these shapes."""
        none = torch.empty(0, dtype=self._dtype, device=self._device)
        packed = torch.cat([none, *(tensor.flatten() for tensors in sent for tensor in tensors)])
        counts = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
        expected = [sum(map(math.prod, of_rank)) for of_rank in shapes]
        received = packed.new_empty(sum(expected))
        size = self._dtype.itemsize
        dist.all_to_all_single(  # as bytes: gloo does not know every dtype
            received.view(torch.uint8),
            packed.view(torch.uint8),
            [size * count for count in expected],
            [size * count for count in counts],
            group=self._group,
        )
        return [
            [piece.view(shape) for piece, shape in zip(part.split(list(map(math.prod, of_rank))), of_rank, strict=True)]
            for part, of_rank in zip(received.split(expected), shapes, strict=True)
        ]
