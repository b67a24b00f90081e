"""Where the parts of tensors lie that are split over ranks: every rank in turn, in a world that sends nothing."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from bigtrain.distributed.shards import parts_of
from bigtrain.storage.boxes import tiling_problem

RANKS = 4
# Name → (shape of the mesh, placements as words, shape of the tensor, boxes in all)
LAYOUTS = {
    "rows": ((4,), ["S0"], (10, 3), 4),
    "columns": ((4,), ["S1"], (3, 10), 4),
    "fewer rows than ranks": ((4,), ["S0"], (2,), 2),
    "no elements": ((4,), ["S0"], (0, 3), 0),
    "replicas": ((2, 2), ["R", "S0"], (5, 3), 2),
    "replicated": ((2, 2), ["R", "R"], (5, 3), 1),
    "a scalar": ((4,), ["R"], (), 1),
    "rows and columns": ((2, 2), ["S1", "S0"], (5, 3), 4),
    "rows twice": ((2, 2), ["S0", "S0"], (7,), 4),
    "as FSDP over tensor parallelism": ((2, 2), ["S0/2", "S0"], (5, 3), 4),
    "three matrices in one": ((4,), ["S0/3"], (24, 2), 12),
}


def parts_on(rank, mesh_shape, words, whole):
    """Parts of a DTensor on this rank of a process group that sends nothing, made by torch's own way of splitting."""
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    made = {"R": Replicate(), "S0": Shard(0), "S1": Shard(1)}
    placements = [made.get(word) or _StridedShard(0, split_factor=int(word[3:])) for word in words]
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
    try:
        mesh, held = init_device_mesh("cpu", mesh_shape), whole
        for size, place, placement in zip(mesh_shape, mesh.get_coordinate(), placements, strict=True):
            if not placement.is_replicate():
                held = placement._split_tensor(held, size, with_padding=False)[0][place]
        tensor = DTensor.from_local(
            held.clone(), mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
        return tensor, parts_of(tensor, rank)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_parts_of_all_first_holders_are_the_tensor(name):
    mesh_shape, words, shape, boxes = LAYOUTS[name]
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    first = []
    for rank in range(RANKS):
        tensor, parts = parts_on(rank, mesh_shape, words, whole)
        assert sum(part.values.numel() for part in parts) == tensor._local_tensor.numel()
        for part in parts:
            assert part.shape == shape
            expected = whole[tuple(slice(begin, begin + length) for begin, length in zip(*box_of(part), strict=True))]
            assert torch.equal(part.values, expected)
            if part.values.numel():
                assert part.values.untyped_storage().data_ptr() == tensor._local_tensor.untyped_storage().data_ptr()
        first += [part.box for part in parts if part.first_holder]
    assert tiling_problem(shape, first) == ""
    assert sum(box.size > 0 for box in first) == boxes


def box_of(part):
    return part.box.offsets, part.box.shape


def test_a_plain_tensor_is_whole_on_every_rank_and_first_on_rank_0():
    tensor = torch.ones(2, 3, requires_grad=True)
    for rank in range(2):
        (part,) = parts_of(tensor, rank)
        assert (part.shape, part.offsets, part.first_holder) == ((2, 3), (0, 0), rank == 0)
        assert part.values.data_ptr() == tensor.data_ptr() and not part.values.requires_grad
