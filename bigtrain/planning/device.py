"""The device that a training is planned for: this machine's, or a kind of GPU by its data sheet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.world import ranks_to_start
from bigtrain.planning.config import ACCELERATORS, Accelerator, PlanConfig
from bigtrain.tracking.memory import memory_total_bytes
from bigtrain.training.ceiling import known_flops

_OF_GPU = 0.05  # of its memory, for the CUDA context, cuBLAS' workspaces and gaps between blocks; not measured
_OF_PROCESS = 450 << 20  # bytes of a process that has imported torch, on a CPU
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """What each rank has."""

    name: str
    memory: int  # bytes of a GPU; of the machine, which the ranks share, on a CPU
    is_gpu: bool
    sheet: Accelerator | None = None  # None: of this kind nothing more is known
    is_here: bool = False  # whether its peak can be measured

    @classmethod
    def of(cls, plan: PlanConfig) -> Device:
        """As `plan.gpu` says."""
        if plan.gpu in ACCELERATORS:
            sheet = ACCELERATORS[plan.gpu]
            return cls(plan.gpu, int(sheet.memory), True, sheet)
        if plan.gpu == "auto" and torch.cuda.is_available():
            gpu = torch.device("cuda", 0)
            name = torch.cuda.get_device_name(gpu)
            words = name.lower().replace(" ", "")
            known = next((key for key in sorted(ACCELERATORS, key=len, reverse=True) if key in words), None)
            return cls(name, memory_total_bytes(gpu), True, ACCELERATORS[known] if known else None, is_here=True)
        return cls("cpu", memory_total_bytes(torch.device("cpu")), False, is_here=True)

    def available(self, ranks: int) -> int:
        """Bytes that a rank's tensors can take."""
        if self.is_gpu:
            return int(self.memory * (1 - _OF_GPU))
        return self.memory // ranks - _OF_PROCESS

    def peak_flops(self, precision: str) -> float:
        """FLOP/s of products in a number format: measured here, or by the data sheet."""
        if self.is_here:
            device = torch.device("cuda" if self.is_gpu else "cpu")
            return known_flops(device, _DTYPES.get(precision, torch.bfloat16), torch.get_num_threads())
        assert self.sheet is not None
        if precision == "fp8" and self.sheet.flops_8:
            return self.sheet.flops_8
        return self.sheet.flops_32 if precision == "fp32" else self.sheet.flops_16


def planned_ranks(plan: PlanConfig, settings: TrainerConfig, device: Device) -> int:
    """`plan.gpus`, or as many as the training's own settings say."""
    if plan.gpus is not None:
        return plan.gpus
    if device.is_here:
        return ranks_to_start(settings)
    return int(settings.gpus) if settings.gpus not in ("auto", "0") else 1
