"""The module as it is trained on every rank: itself alone, or DistributedDataParallel around it."""

from __future__ import annotations

import contextlib
import inspect
from contextlib import AbstractContextManager

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bigtrain.distributed.world import World


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module whose backward pass averages gradients over the ranks; it starts from rank 0's weights."""
    if world.size == 1:
        return module
    # Running statistics differ by rank; `World.broadcast_buffers` before evaluating. torch 2.13 renamed the setting.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(
        module,
        device_ids=None if world.device.type == "cpu" else [world.device.index],
        gradient_as_bucket_view=True,
        **{"forward_sync_buffers" if renamed else "broadcast_buffers": False},
    )


def no_sync(replica: nn.Module, when: bool) -> AbstractContextManager[None]:
    """`DistributedDataParallel.no_sync` around a forward and backward pass: gradients are added up on each rank, and
    averaged by the next pass without it. Nothing unless `when`, and where there is one rank.
    """
    if not when or not isinstance(replica, DistributedDataParallel):
        return contextlib.nullcontext()
    return replica.no_sync()  # type: ignore[no-any-return]
