"""Tensors of which each rank holds a part, as FSDP2 makes them of a module's parameters.

Whatever is split over ranks (a parameter, its gradient, its optimizer state, its moving average) is a DTensor, which
knows its own place; arithmetic is done on the parts, `local`. Whatever is not is a plain tensor, the same on every
rank. Importing DTensor takes a second, so nothing here does where no tensor can be one.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
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
    # Not `tensor.detach()._local_tensor`: a DTensor's operations cost some 50 µs each.
    return tensor._local_tensor.detach() if is_sharded(tensor) else tensor  # type: ignore[no-any-return, attr-defined]


def locals_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's parts of tensors."""
    return [local(tensor) for tensor in tensors]


def with_values(tensor: Tensor, values: Tensor) -> Tensor:
    """A tensor like this one, split over ranks where it is, of which `values` are this rank's part."""
    if not is_sharded(tensor):
        return values
    # DTensor's own `clone` and `zeros_like` gather what has a placement that they do not know.
    sharded: Any = tensor
    return sys.modules[_MODULE].DTensor.from_local(  # type: ignore[no-any-return]
        values, sharded.device_mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    )


def zeros_like(tensor: Tensor) -> Tensor:
    """`torch.zeros_like`, split over ranks as the tensor is."""
    return with_values(tensor, torch.zeros_like(local(tensor)))


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
    first = not any(replicas) and int(sharded.device_mesh.mesh.min()) == 0  # of meshes side by side, each has it all
    runs = [_runs(_held(sharded, coordinate, dimension)) for dimension in range(tensor.ndim)]
    return [
        Part(
            values[tuple(slice(begin, begin + length) for begin, _, length in box)],
            tuple(sharded.shape),
            tuple(offset for _, offset, _ in box),
            first,
        )
        for box in itertools.product(*runs)
    ]


def _held(sharded: Any, coordinate: Sequence[int], dimension: int) -> Tensor:
    """The places along a dimension of the whole tensor that the rank at a coordinate of the mesh has, in its order."""
    places = torch.arange(sharded.shape[dimension], device="cpu").view([1] * dimension + [-1])
    axes = list(zip(sharded.device_mesh.shape, coordinate, sharded.placements, strict=True))
    if hasattr(sharded.placements[-1], "sections"):
        # Tensor parallelism (`nn/tensor_parallel.py`): FSDP, the first axis, has split the rows that it gives a rank.
        axes = [axes[1], (*axes[0][:2], sys.modules[_MODULE].Shard(0))]
    for ranks, place, placement in axes:
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


def copy_part(target: Tensor, whole: Tensor) -> None:
    """Copies this rank's part of `whole`, a plain tensor, into `target`."""
    for part in parts_of(target, 0):
        part.values.copy_(whole[part.box.within(Box.whole(part.shape))])


def rows_of(matrix: Tensor) -> Tensor:
    """A vector of zeros with a number for each row (first axis) of a tensor, split over the ranks as the rows are."""
    if not is_sharded(matrix):
        return matrix.new_zeros(matrix.shape[0])
    sharded: Any = matrix
    values = local(matrix).new_zeros(local(matrix).shape[0])
    dtensor: Any = sys.modules[_MODULE].DTensor
    return dtensor.from_local(  # type: ignore[no-any-return]
        values, sharded.device_mesh, sharded.placements, run_check=False, shape=matrix.shape[:1], stride=(1,)
    )


def replicas(tensor: Tensor) -> int:
    """How many ranks hold each part of a sharded tensor: more than 1 under HSDP, and under tensor parallelism of what
    is not split over a group of ranks.
    """
    sharded: Any = tensor
    sizes = zip(sharded.device_mesh.shape, sharded.placements, strict=True)
    copies = math.prod(size for size, placement in sizes if placement.is_replicate())
    return copies * (dist.get_world_size() // sharded.device_mesh.size())


def sum_over_parts(values: list[Tensor], of: Tensor) -> list[Tensor]:
    """Sums over the parts of a sharded tensor, in one collective. `values` are plain, of one dtype, and the same on the
    ranks that hold the same part. All ranks get the same bits.
    """
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    flat /= replicas(of)
    pieces = flat.split([value.numel() for value in values])
    return [piece.view(value.shape) for piece, value in zip(pieces, values, strict=True)]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all elements of all tensors together, a plain scalar, the same on every rank."""
    norms = torch._foreach_norm(locals_of(tensors))
    of_copies: dict[int, list[Tensor]] = defaultdict(list)  # ranks that hold each part, 0 of plain tensors → norms
    for tensor, norm in zip(tensors, norms, strict=True):
        of_copies[replicas(tensor) if is_sharded(tensor) else 0].append(norm)
    if set(of_copies) == {0}:
        return torch.linalg.vector_norm(torch.stack(norms))
    of_plain = [torch.stack(of_copies.pop(0)).double().square().sum()] if 0 in of_copies else []
    sums = torch.stack([torch.stack(part).double().square().sum() for part in of_copies.values()])
    dist.all_reduce(sums)
    of_parts = [total / copies for total, copies in zip(sums.unbind(), of_copies, strict=True)]
    return torch.stack([*of_parts, *of_plain]).sum().sqrt().to(norms[0].dtype)
