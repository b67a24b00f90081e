"""Tensors of which each rank holds a part, as FSDP2 makes them of a module's parameters.

Whatever is split over ranks (a parameter, its gradient, its optimizer state, its moving average) is a DTensor, which
knows its own place; arithmetic is done on the parts, `local`. Whatever is not is a plain tensor, the same on every
rank. Importing DTensor takes a second, so nothing here does where no tensor can be one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_MODULE = "torch.distributed.tensor"


@dataclass(frozen=True)
class Part:
    """This rank's part of a tensor: a box of it."""

    values: Tensor  # plain, sharing storage with the tensor; it may have no elements
    shape: tuple[int, ...]  # of the whole tensor
    offsets: tuple[int, ...]  # of the part's first element in the whole tensor
    first_holder: bool  # whether no rank before this one holds the same part


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
    """Where this rank's part lies in the whole tensor. A plain tensor is held by every rank, and first by rank 0."""
    if not is_sharded(tensor):
        return Part(tensor.detach(), tuple(tensor.shape), (0,) * tensor.ndim, rank == 0)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = tensor
    mesh, placements = sharded.device_mesh, sharded.placements
    _, offsets = compute_local_shape_and_global_offset(sharded.shape, mesh, placements)
    coordinate = mesh.get_coordinate()
    replicas = [place for place, placement in zip(coordinate, placements, strict=True) if placement.is_replicate()]
    return Part(local(tensor), tuple(sharded.shape), tuple(offsets), not any(replicas))
