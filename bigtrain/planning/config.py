"""Settings of `bigtrain plan`, and the GPUs that it knows; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bigtrain.config.run import RunConfig
from bigtrain.config.settings import Invalid, setting


class Accelerator(NamedTuple):
    """What a device can do, by its data sheet: bytes, FLOP/s of dense products, bytes per second, watts."""

    memory: float
    flops_16: float  # bf16 and fp16
    flops_32: float  # fp32 products, on tensor cores (TF32) where it has them
    flops_8: float  # fp8; 0: none
    bandwidth: float  # of its memory
    link: float  # to the other devices of its node, one way
    network: float  # to devices of other nodes, one way, of a usual cluster
    watts: float


_GB, _T = 1e9, 1e12
# Memory as torch reports it is some 1.5 % less than the name says (ECC, driver): 80 GB are 79.2 GiB of an H100.
ACCELERATORS = {
    "h100": Accelerator(85.0 * _GB, 989 * _T, 495 * _T, 1979 * _T, 3350 * _GB, 450 * _GB, 50 * _GB, 700),
    "h200": Accelerator(150.0 * _GB, 989 * _T, 495 * _T, 1979 * _T, 4800 * _GB, 450 * _GB, 50 * _GB, 700),
    "b200": Accelerator(191.0 * _GB, 2250 * _T, 1125 * _T, 4500 * _T, 8000 * _GB, 900 * _GB, 50 * _GB, 1000),
    "a100": Accelerator(85.0 * _GB, 312 * _T, 156 * _T, 0, 2039 * _GB, 300 * _GB, 25 * _GB, 400),
    "a100_40": Accelerator(42.3 * _GB, 312 * _T, 156 * _T, 0, 1555 * _GB, 300 * _GB, 25 * _GB, 400),
    "v100": Accelerator(34.0 * _GB, 125 * _T, 15.7 * _T, 0, 900 * _GB, 150 * _GB, 12.5 * _GB, 300),
    "l4": Accelerator(23.7 * _GB, 121 * _T, 60 * _T, 242 * _T, 300 * _GB, 32 * _GB, 12.5 * _GB, 72),
    "l40s": Accelerator(47.6 * _GB, 362 * _T, 183 * _T, 733 * _T, 864 * _GB, 32 * _GB, 25 * _GB, 350),
    "a6000": Accelerator(51.0 * _GB, 155 * _T, 77 * _T, 0, 768 * _GB, 56 * _GB, 12.5 * _GB, 300),
    "3090": Accelerator(25.3 * _GB, 71 * _T, 36 * _T, 0, 936 * _GB, 32 * _GB, 1.25 * _GB, 350),
    "4090": Accelerator(25.3 * _GB, 165 * _T, 83 * _T, 330 * _T, 1008 * _GB, 32 * _GB, 1.25 * _GB, 450),
    "5090": Accelerator(33.7 * _GB, 209 * _T, 105 * _T, 419 * _T, 1792 * _GB, 64 * _GB, 1.25 * _GB, 575),
    "mi300x": Accelerator(205.0 * _GB, 1307 * _T, 654 * _T, 2615 * _T, 5300 * _GB, 448 * _GB, 50 * _GB, 750),
}


@dataclass
class PlanConfig:
    """What `bigtrain plan` plans for."""

    gpu: str = setting(
        "auto",
        "The kind of GPU; auto: this machine's, or its CPU where it has none; cpu.",
        choices=("auto", "cpu", *ACCELERATORS),
    )
    gpus: int | None = setting(
        None,
        "GPUs to train on, over all nodes; default: as trainer.gpus and processes say, of this machine.",
        at_least=1,
    )
    gpus_per_node: int = setting(8, "GPUs that are connected faster than by the network.", at_least=1)
    share_of_peak: float | None = setting(
        None,
        "Share of the device's peak that training reaches; default: a usual one for the kind of model.",
        above=0,
        at_most=1,
    )
    measure: bool = setting(
        False, "Time some steps of the training on this machine, and take the share of the peak from them."
    )
    price_per_gpu_hour: float | None = setting(None, "Price of a GPU for an hour, for the cost of the run.", above=0)

    def problems(self) -> list[Invalid]:
        if self.measure and self.share_of_peak is not None:
            return [
                Invalid("share_of_peak", f"is {self.share_of_peak}, which measure=true finds out; give one of them")
            ]
        return []


@dataclass
class PlannedRunConfig(RunConfig):
    """`bigtrain plan`: the settings of a training, and what it is planned for."""

    plan: PlanConfig = setting(PlanConfig, "What the training is planned for.")
