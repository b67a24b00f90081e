"""Tensors of which each rank holds a part, as FSDP2 makes them of a module's parameters.

Whatever is split over ranks (a parameter, its gradient, its optimizer state, its moving average) is a DTensor, which
knows its own place; arithmetic is done on the parts, `local`. Whatever is not is a plain tensor, the same on every
rank. Importing DTensor takes a second, so nothing here does where no tensor can be one.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigtrain.storage.boxes import Box

_MODULE = "torch.distributed.tensor"


@dataclass(frozen=True)
class Part:
    """This rank's part of a tensor, or one of several: a box of it."""

    values: Tensor  # plain, sharing storage with the tensor; it may have no elements
    shape: tuple[int, ...]  # of the whole tensor
    offsets: tuple[int, ...]  # of the part's first element in the whole tensor
    first_holder: bool  # whether no rank before this one holds the same part

    @property
    def box(self) -> Box:
        """Where it lies."""
        return Box(self.offsets, tuple(self.values.shape))


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a DTensor."""
    return _MODULE in sys.modules and isinstance(tensor, sys.modules[_MODULE].DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its storage and without its gradient: the tensor itself unless sharded."""
    return tensor.detach()._local_tensor if is_sharded(tensor) else tensor  # type: ignore[no-any-return, attr-defined]


def locals_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's parts of tensors."""
    return [local(tensor) for tensor in tensors]


def part_of(tensor: Tensor, rank: int) -> Part:
    """Where this rank's part lies in the whole tensor, of which it is one box. A plain tensor is held by every rank,
    and first by rank 0.
    """
    (part,) = parts_of(tensor, rank)
    return part


def parts_of(tensor: Tensor, rank: int) -> list[Part]:
    """This rank's part of a tensor as boxes: several where a strided placement gives it rows that lie apart.

    A plain tensor is one, held by every rank, and first by rank 0. A rank outside a DTensor's mesh has none.
    """
    if not is_sharded(tensor):
        return [Part(tensor.detach(), tuple(tensor.shape), (0,) * tensor.ndim, rank == 0)]
    sharded: Any = tensor
    coordinate, placements = sharded.device_mesh.get_coordinate(), sharded.placements
    if coordinate is None:
        return []
    values = local(tensor)
    replicas = [place for place, placement in zip(coordinate, placements, strict=True) if placement.is_replicate()]
    runs = [_runs(_held(sharded, coordinate, dimension)) for dimension in range(tensor.ndim)]
    return [
        Part(
            values[tuple(slice(begin, begin + length) for begin, _, length in box)],
            tuple(sharded.shape),
            tuple(offset for _, offset, _ in box),
            not any(replicas),
        )
        for box in itertools.product(*runs)
    ]


def _held(sharded: Any, coordinate: Sequence[int], dimension: int) -> Tensor:
    """The places along a dimension of the whole tensor that the rank at a coordinate of the mesh has, in its order."""
    places = torch.arange(sharded.shape[dimension], device="cpu").view([1] * dimension + [-1])
    for ranks, place, placement in zip(sharded.device_mesh.shape, coordinate, sharded.placements, strict=True):
        assert not placement.is_partial(), "a sum that is still to be formed has no parts"
        if not placement.is_replicate() and placement.dim == dimension:
            places = placement._split_tensor(places, ranks, with_padding=False, contiguous=False)[0][place]
    return places.flatten()


def _runs(places: Tensor) -> list[tuple[int, int, int]]:
    """Ascending places as runs without a gap: (place of its first in this list, the first, how many)."""
    if not len(places):
        return [(0, 0, 0)]
    begins = [0, *(1 + (places.diff() != 1).nonzero().flatten()).tolist()]
    ends = [*begins[1:], len(places)]
    return [(begin, int(places[begin]), end - begin) for begin, end in zip(begins, ends, strict=True)]
