"""The machine that a run trains on: threads, number format, compiled blocks, measured ceiling.

What is `auto` follows a fixed rule of capability and shapes; what was resolved is kept in the run's state.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache

import torch
from torch import nn

from bigtrain.config.run import TrainerConfig
from bigtrain.data.loader import TrainLoader, to_device
from bigtrain.distributed.world import World
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.throughput import measured_peak_flops
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.precision import ResolvedPrecision, allow_tf32, resolve_precision
from bigtrain.training.state import TrainState


def keep_threads(state: TrainState, tracker: Tracker) -> None:
    """One and two threads give different bytes: a resumed run takes the number it began with."""
    if state.threads and state.threads != torch.get_num_threads():
        tracker.note(f"using {state.threads} CPU threads, as the run began with, to stay exact", True)
        torch.set_num_threads(state.threads)
    state.threads = torch.get_num_threads()


def prepare_device(settings: TrainerConfig, device: torch.device) -> None:
    """Global switches of torch: TF32, deterministic kernels. Before the first product: cuBLAS reads them once."""
    if device.type == "cuda":
        allow_tf32()
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory


def choose_precision(
    module: TrainingModule, settings: TrainerConfig, loader: TrainLoader, flops: float, state: TrainState, world: World
) -> ResolvedPrecision:
    """As set, by rule, by probe; or what the resumed run resolved to."""
    if "precision" in state.resolved:
        return ResolvedPrecision(state.resolved["precision"], "as the run began with")
    # Of the whole batch, not of a rank's share: the number of ranks does not change the format.
    forward_flops = flops / 3 * (settings.micro_batch_size or loader.order.samples_per_step)
    precision = resolve_precision(
        settings.precision,
        world.device,
        forward_flops,
        lambda candidate: try_step(module, loader, candidate, world),
    )
    name = world.share(precision.name)  # ranks that probed may not agree
    state.resolved["precision"] = name
    return ResolvedPrecision(name, precision.reason)


def try_step(module: TrainingModule, loader: TrainLoader, precision: ResolvedPrecision, world: World) -> None:
    """A forward and backward pass that leaves no trace: gradients dropped, running statistics put back."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    batch = to_device(loader.micro_batches(0)[0], world.device)
    try:
        with precision.autocast(world.device):
            output = module(batch)
            loss = torch.stack([term.sum for term in output.terms.values()]).sum()
        loss.backward()
    finally:
        module.zero_grad()
        for buffer, kept in buffers:
            buffer.copy_(kept)


def compile_blocks(
    module: TrainingModule,
    setting: str,
    loader: TrainLoader,
    precision: ResolvedPrecision,
    tracker: Tracker,
    world: World,
) -> str:
    """Compiles each block of the backbone in place (`torch.compile(module)` would rename every key); says what it did.

    A compiler that is missing or fails is one warning, and the run goes on without.
    """
    if setting == "false" or (setting == "auto" and world.device.type == "cpu"):
        return "off (auto: on a CPU compiling costs more than it saves)" if setting == "auto" else "off"
    blocks: list[nn.Module] = list(module.network.backbone.blocks)  # type: ignore[arg-type]
    for block in blocks:
        block.compile()
    try:
        try_step(module, loader, precision, world)
    except Exception as error:  # any failure of the compiler: it has no common base class
        for block in blocks:
            block._compiled_call_impl = None
        module.zero_grad()
        tracker.note(f"torch.compile failed ({type(error).__name__}); going on without", True)
        return "off (the compiler failed)"
    return f"{len(blocks)} blocks"


def peak_flops(world: World, precision: ResolvedPrecision) -> float | None:
    """The measured ceiling of all ranks' devices together in this precision; they measure at the same time."""
    device = world.device
    peak = _peak_of(device, precision.dtype, torch.get_num_threads())
    if device.type == "cuda":  # the matrices of the measurement are not the run's memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return float(world.gather([peak]).sum())


@lru_cache
def _peak_of(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Measured once in a process: it stays the same from one training to the next."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measured_peak_flops(device, dtype)


def device_name(device: torch.device) -> str:
    """For people: the GPU's name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
