"""This rank: its number, how many there are, its device; and the two reductions that training needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bigtrain.errors import MachineError


@dataclass(frozen=True)
class World:
    """`rank` of `size`, on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank names the run directory, writes and talks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in place; nothing happens alone."""
        if self.size > 1:
            dist.all_reduce(value)
        return value


def join_world(gpus: str) -> World:
    """The world of this process. `gpus` as in `trainer.gpus`. Raises MachineError when a GPU asked for is not there."""
    visible = torch.cuda.device_count() if gpus != "0" else 0
    if gpus not in ("auto", "0") and visible < int(gpus):
        raise MachineError.of(
            "DEVICE-GPU",
            f"trainer.gpus={gpus}, but {visible or 'no'} GPU{'s are' if visible > 1 else ' is'} visible",
            cause=_why_no_gpu(),
            fix="run on the CPU with trainer.gpus=0 (or leave it at auto)",
        )
    return World(rank=0, size=1, device=torch.device("cuda", 0) if visible else torch.device("cpu"))


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({torch.__version__}) is a build for CPUs; a GPU needs one with CUDA or ROCm"
    return "torch sees fewer devices: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
