"""How several ranks train one module: each with all of it (DDP), or each with a part of it (FSDP2, HSDP).

Under DDP every rank holds the weights, gradients and optimizer state. Under FSDP (arXiv:2304.11277) each holds a part
of them, as DTensors (`shards.py`), and a block's weights are gathered for its forward and again for its backward pass.
HSDP does that within each machine and averages gradients over the machines: weights never cross the network.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from bigtrain.distributed.shards import is_sharded, local, with_values
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.tracking.memory import memory_total_bytes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_MODULE = "torch.distributed.fsdp"
_SHARE_OF_MEMORY = 0.5  # of a GPU, for what DDP holds on it; activations need the rest


@dataclass(frozen=True)
class Strategy:
    """`name`: single, ddp, fsdp or hsdp; and why it was chosen."""

    name: str
    reason: str = "as set"

    @property
    def shards(self) -> bool:
        """Whether a rank holds a part of the weights only."""
        return self.name in ("fsdp", "hsdp")

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_strategy(setting: str, world: World, held_bytes: Callable[[], int]) -> Strategy:
    """By a fixed rule where `setting` is auto. `held_bytes` returns what a rank holds under ddp beside
    activations; it is called only where that decides.

    Raises ConfigError for hsdp where the ranks are not equally many on each of several machines, and for another than
    fsdp under tensor parallelism.
    """
    if world.size == 1:
        return Strategy("single", "one rank")
    if world.tensor_parallel > 1:
        if setting not in ("auto", "fsdp"):
            raise ConfigError.of(
                "CONFIG-COMBINATION",
                f"trainer.strategy is {setting}, but trainer.tensor_parallel is {world.tensor_parallel}",
                cause="groups of ranks that compute each block together split it further as fsdp does",
                fix="trainer.strategy=fsdp",
            )
        return Strategy("fsdp", f"{world.data_size} x trainer.tensor_parallel={world.tensor_parallel} ranks")
    if setting == "hsdp" and (world.local_size == world.size or world.size % world.local_size):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.strategy is hsdp, but {world.local_size} of {world.size} ranks are on this machine",
            cause="hsdp splits the weights within a machine and repeats them on each, with equally many ranks",
            fix="trainer.strategy=fsdp",
        )
    if setting != "auto":
        return Strategy(setting)
    if world.device.type == "cpu":
        return Strategy("ddp", "auto: ranks on CPUs share the memory of their machine")
    held, memory = held_bytes(), memory_total_bytes(world.device)
    name = "fsdp" if needs_shards(held, memory) else "ddp"
    sign = ">" if name == "fsdp" else "≤"
    return Strategy(
        name, f"auto: weights, gradients and optimizer state, {held / 1e9:.1f} GB, {sign} half of {memory / 1e9:.0f} GB"
    )


def needs_shards(held_bytes: int, memory_bytes: int) -> bool:
    """The rule of auto: whether a rank would hold too much under ddp, with AdamW and beside activations, on a GPU of so
    much memory.
    """
    return held_bytes > _SHARE_OF_MEMORY * memory_bytes


def replicate(module: nn.Module, world: World, strategy: Strategy) -> nn.Module:
    """The module whose backward pass averages gradients over the ranks; under DDP it starts from rank 0's weights."""
    if strategy.name != "ddp":
        return module
    # Running statistics differ by rank; `World.broadcast_buffers` before evaluating. torch 2.13 renamed the setting.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(
        module,
        device_ids=None if world.device.type == "cpu" else [world.device.index],
        gradient_as_bucket_view=True,
        **{"forward_sync_buffers" if renamed else "broadcast_buffers": False},
    )


def device_mesh(world: World, strategy: Strategy) -> DeviceMesh:
    """The ranks as a grid: (shard), of hsdp (replicate, shard), of tensor parallelism (shard, tensor)."""
    from torch.distributed.device_mesh import init_device_mesh

    if world.tensor_parallel > 1:
        shape, names = (world.data_size, world.tensor_parallel), ("shard", "tensor")
    elif strategy.name == "fsdp":
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    else:
        shape, names = (world.size // world.local_size, world.local_size), ("replicate", "shard")
    return init_device_mesh(world.device.type, shape, mesh_dim_names=names)


def shard(root: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Splits all parameters of `root` over the ranks of a mesh, in place, along their first axis; names stay. Those
    that are split over ranks of the same samples already (`nn/tensor_parallel.py`) are split further.

    Each block is gathered by itself, in `dtype` (None: as it is stored), while the block before it computes; gradients
    are summed in fp32. Autocast alone would keep its own copy of every weight from forward to backward, so a rank would
    have all of them: hence `dtype`. Batch norms and recurrences, whose kernels do not mix it with fp32, are gathered as
    stored, and so is what is in no block (embeddings, heads, the last norm): at the beginning of a forward pass, and
    kept to the end of the backward pass, as the loss reads the vocabulary head's weight after the network's forward.

    Parameters may be on the meta device, and stay there: `materialise`. Channels-last ones become contiguous.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Recurrent layers return their state as a view; no model writes to what a block returns.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
    for parameter in root.parameters():
        if not is_sharded(parameter):
            parameter.data = parameter.data.contiguous()
    reduced = torch.float32 if dtype is not None else None
    low = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduced, cast_forward_inputs=False)
    as_stored = MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in blocks:
        mixes = not any(isinstance(part, _BatchNorm | nn.RNNBase) for part in block.modules())
        fully_shard(block, mesh=mesh, mp_policy=low if mixes else as_stored)
    fully_shard(root, mesh=mesh, mp_policy=as_stored)
    units: Sequence[Any] = blocks
    for block, following in pairwise(units):
        block.set_modules_to_forward_prefetch([following])


def materialise(root: nn.Module, device: torch.device) -> None:
    """Moves a sharded module to the device; what is on the meta device becomes uninitialised memory. Ties stay."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        values = local(tensor)
        values = torch.empty_like(values, device=device) if values.is_meta else values.to(device)
        return with_values(tensor, values)

    with torch.no_grad():
        root._apply(moved)


def no_sync(replica: nn.Module, when: bool) -> AbstractContextManager[None]:
    """Around a forward and backward pass; `when`: others of the same step follow.

    Under DDP gradients are then added up on each rank, and averaged by the last pass. Under FSDP every pass reduces
    them, as a rank has no room for those of the whole module; under HSDP within the machine only, but for the last.
    """
    if isinstance(replica, DistributedDataParallel):
        return replica.no_sync() if when else contextlib.nullcontext()  # type: ignore[no-any-return]
    if _is_unit(replica):
        replica.set_requires_all_reduce(not when)  # type: ignore[operator]
    return contextlib.nullcontext()


def reshard(module: nn.Module) -> None:
    """Frees what a forward pass without a backward pass has left gathered; nothing where nothing is split.

    Until then the parameters of the root are gathered copies, and what is written to them is lost.
    """
    for unit in _units(module):
        unit.reshard()


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within it every rank has all weights of a sharded module, and no forward pass communicates: for text that is
    written token by token, by any part of the module, and on one rank for longer than on another. Under tensor
    parallelism a rank has all of its part of them, and all ranks of a group must run the same passes.
    """
    units = _units(module)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        if _is_unit(module):
            module.reset_iter_state()  # type: ignore[operator]  # an exception has perhaps left a pass unfinished
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not module, recurse=False)


def inference(module: nn.Module) -> AbstractContextManager[None]:
    """No gradients. FSDP gathers into tensors that are used in training too, which inference mode would forbid."""
    return torch.no_grad() if _units(module) else torch.inference_mode()


def _units(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if _is_unit(part)] if _MODULE in sys.modules else []


def _is_unit(module: nn.Module) -> bool:
    return _MODULE in sys.modules and isinstance(module, sys.modules[_MODULE].FSDPModule)
