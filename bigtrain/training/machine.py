"""Adapting a run to its machine: threads, number format, compiled blocks, recorded steps, measured peak.

`auto` is resolved by a fixed rule of hardware and shapes; the result is kept in `TrainState.resolved`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
from torch import nn
from torch._C import _SDPBackend as SDPBackend

from bigtrain.config.run import Precision, TrainerConfig
from bigtrain.data.loader import TrainLoader, to_device
from bigtrain.distributed.environment import rank_environment
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.nn.activation_checkpointing import checkpoint_activations, checkpointed_modules
from bigtrain.nn.compiler import prepare_compiler
from bigtrain.nn.cross_entropy import Chunking, chunking_for
from bigtrain.nn.heads import VocabularyHead
from bigtrain.nn.ngram import CountsTrainingSplit
from bigtrain.optim.base import Optimizer
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.contention import Contention
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.ceiling import ceiling_flops
from bigtrain.training.cores import CoreWatch
from bigtrain.training.precision import ResolvedPrecision, allow_tf32, enter_fp8, resolve_precision
from bigtrain.training.state import TrainState

# With less arithmetic than this, launching kernels takes most of a step: 1e12 FLOP are about 2 ms on an H100.
RECORDED_STEP_FLOPS = 1e12
_CUDNN_ATTENTION = ((9, 0), (10, 0))  # capabilities of GPUs on which cuDNN's attention is the fastest
_RECORDED = "each step is recorded, then replayed"


def keep_threads(state: TrainState, tracker: Tracker) -> None:
    """A resumed run uses the number of CPU threads that it began with: sums, and so bytes, depend on it."""
    if state.threads and state.threads != torch.get_num_threads():
        tracker.note(f"using {state.threads} CPU threads, as the run began with, to stay exact", True)
        torch.set_num_threads(state.threads)
    state.threads = torch.get_num_threads()


def prepare_device(settings: TrainerConfig, device: torch.device) -> None:
    """Global switches of torch: TF32, attention kernels, deterministic ones. Before the first product: cuBLAS reads
    them once.
    """
    if device.type == "cuda":
        allow_tf32()
        order_attention_kernels(torch.cuda.get_device_capability(device), settings.deterministic)
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory


def order_attention_kernels(capability: tuple[int, int], deterministic: bool) -> None:
    """`F.scaled_dot_product_attention` takes the first kernel of this order that can do what it is asked.

    cuDNN's is the fastest on H100 and B200 and not elsewhere (huggingface/transformers#48163), but its backward pass is
    not deterministic (pytorch#182551). `deterministic` switches it off: torch sets an order of its own, with cuDNN
    first, at the first attention on such a GPU.
    """
    cudnn, flash, efficient, math = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    cudnn_first = capability in _CUDNN_ATTENTION and not deterministic
    order = [cudnn, flash, efficient, math] if cudnn_first else [flash, efficient, math, cudnn]
    torch._C._set_sdp_priority_order([kernel.value for kernel in (*order, SDPBackend.OVERRIDEABLE)])
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)


def choose_precision(
    module: TrainingModule,
    settings: TrainerConfig,
    loader: TrainLoader,
    flops: float,
    state: TrainState,
    world: World,
    sharded: bool = False,
) -> ResolvedPrecision:
    """The number format: what a resumed run has resolved, else as set, by rule, or by probe. Under fp8 the module's
    wide linear layers now train in it. `flops`: of a sample; a `sharded` module counts as large.
    """
    if settings.precision is Precision.fp8:  # never chosen by auto or probe
        state.resolved["precision"] = "fp8"
        return ResolvedPrecision("fp8", "as set: " + enter_fp8(module.network.backbone))
    if "precision" in state.resolved:
        return ResolvedPrecision(state.resolved["precision"], "as the run began with")
    # Of the whole batch, not of a rank's share: the number of ranks does not change the format.
    forward_flops = flops / 3 * (settings.fixed_micro_batch_size or loader.order.samples_per_step)
    if sharded:
        forward_flops = math.inf
    precision = resolve_precision(
        settings.precision,
        world.device,
        forward_flops,
        lambda candidate: try_step(module, loader, candidate, world),
    )
    name = world.broadcast(precision.name)  # ranks that probed may not agree
    state.resolved["precision"] = name
    return ResolvedPrecision(name, precision.reason)


def precision_of_shards(settings: TrainerConfig, device: torch.device, resolved: Mapping[str, str]) -> str:
    """The number format of a sharded run, which must be known before its module is: the rule for a large model.
    `resolved`: of a resumed run. Raises ConfigError for a probe, which runs the module.
    """
    if settings.precision is Precision.probe:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.precision is probe, which times passes before the weights are split over the ranks",
            fix="trainer.precision=auto, or trainer.strategy=ddp",
        )
    if "precision" in resolved:
        return resolved["precision"]
    return resolve_precision(settings.precision, device, math.inf, lambda candidate: None).name


def try_step(module: TrainingModule, loader: TrainLoader, precision: ResolvedPrecision, world: World) -> None:
    """A forward and backward pass without effect: gradients are dropped, running statistics put back."""
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


def compile_network(
    module: TrainingModule,
    setting: str,
    loader: TrainLoader,
    precision: ResolvedPrecision,
    state: TrainState,
    tracker: Tracker,
    world: World,
) -> None:
    """Compiles the backbone in place (`torch.compile(module)` would rename every key), and the loss of a vocabulary.

    Block by block: blocks of the same shapes are compiled once, and the gradients of a block are averaged over ranks
    while those of the next are computed. `whole`: as one region. Without a compiler, or if it fails, there is one
    warning and the model runs eagerly.
    """
    set_chunking(module, world.device, state, compiled=False)
    if setting == "false":
        state.resolved["compile"] = "off"
        return
    obstacles = {
        "the steps are small, and recorded": records(state),
        "on a CPU compiling costs more than it saves": world.device.type == "cpu",
        "several ranks compute each block": world.tensor_parallel > 1,
    }
    why = next((why for why, stands in obstacles.items() if stands), None)
    if setting == "auto" and why is not None:
        state.resolved["compile"] = f"off (auto: {why})"
        return
    blocks: list[nn.Module] = module.network.backbone.ordered_blocks()  # type: ignore[operator, union-attr, assignment]
    regions = [module.network.backbone] if setting == "whole" else blocks
    state.resolved["compile"] = "the backbone as a whole" if setting == "whole" else f"{len(blocks)} blocks"
    set_chunking(module, world.device, state, compiled=True)
    try:
        prepare_compiler()
        for region in regions:
            region.compile()
        try_step(module, loader, precision, world)
    except Exception as error:  # the compiler's errors have no common base class
        for region in regions:
            region._compiled_call_impl = None
        set_chunking(module, world.device, state, compiled=False)
        module.zero_grad()
        tracker.note(f"torch.compile failed ({type(error).__name__}); going on without", True)
        state.resolved["compile"] = "off (the compiler failed)"


def set_chunking(module: TrainingModule, device: torch.device, state: TrainState, compiled: bool) -> None:
    """Sets the size of the chunks in which vocabulary heads compute the loss; a resumed run keeps its own."""
    rule = chunking_for(device)._replace(compiled=compiled)
    if device.type == "cuda" and not compiled:
        rule = eager_chunking(rule)
    kept = state.resolved.get("logits_per_chunk")
    if kept is not None:
        rule = rule._replace(max_logits=int(kept))
    for head in module.network.heads.values():
        if isinstance(head, VocabularyHead):
            head.chunking = rule
            state.resolved["logits_per_chunk"] = str(rule.max_logits)


def eager_chunking(rule: Chunking) -> Chunking:
    """Of a GPU, without a compiler: several fp32 tensors of a chunk's size are alive at once."""
    return rule._replace(max_logits=rule.max_logits // 6)


def choose_checkpointing(module: TrainingModule, setting: str, state: TrainState) -> None:
    """Which blocks compute their activations again. Raises ConfigError for a model that has none of what is set."""
    state.resolved.pop("activation_checkpointing", None)  # of an earlier session, which may have been set otherwise
    if setting == "off":
        return
    blocks: list[nn.Module] = module.network.backbone.ordered_blocks()  # type: ignore[operator, union-attr, assignment]
    chosen = checkpointed_modules(blocks, setting)
    if not chosen:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.activation_checkpointing is {setting}, but this model has no "
            + ("attention in its blocks" if blocks else "blocks"),
            fix="trainer.activation_checkpointing=" + ("full" if blocks else "off"),
        )
    checkpoint_activations(chosen)
    shown = f"attention of {len(blocks)} blocks" if setting == "attention" else f"{len(chosen)} of {len(blocks)} blocks"
    state.resolved["activation_checkpointing"] = shown


def choose_recording(
    module: TrainingModule,
    settings: TrainerConfig,
    optimizer: Optimizer,
    loader: TrainLoader,
    precision: ResolvedPrecision,
    step_flops: float,
    state: TrainState,
    world: World,
) -> None:
    """By a fixed rule, whether steps are recorded as a CUDA graph: `state.resolved["cuda_graph"]`, with why not."""
    counts = any(isinstance(head, CountsTrainingSplit) for head in module.network.heads.values())
    obstacles = {
        "": settings.cuda_graph == "false",
        " (only a GPU has them)": world.device.type != "cuda",
        " (several ranks agree between their kernels)": world.size > 1,
        " (the samples differ in length)": loader.dataset.lengths is not None,
        " (fp16 reads its loss scale back)": precision.name == "fp16",
        " (the model counts on the host)": counts,
        " (activation checkpointing sets generators back on the host)": settings.activation_checkpointing != "off",
        " (trainer.find_nonfinite looks at every value)": settings.find_nonfinite,
        " (optimizer.l1 needs the learning rate on the host)": any(group["l1"] for group in optimizer.param_groups),
        " (the optimizer reads found_inf on the host)": not optimizer.recordable,
        " (auto: a step is arithmetic, not launches)": settings.cuda_graph == "auto"
        and step_flops >= RECORDED_STEP_FLOPS,
    }
    first = next((why for why, stands in obstacles.items() if stands), None)
    state.resolved["cuda_graph"] = _RECORDED if first is None else f"off{first}"


def records(state: TrainState) -> bool:
    """Whether steps are recorded."""
    return state.resolved["cuda_graph"] == _RECORDED


def peak_flops(world: World, precision: ResolvedPrecision) -> float | None:
    """FLOP/s that the devices of all ranks reach together in this precision (fp8: in bf16)."""
    device = world.device
    peak = ceiling_flops(device, precision.dtype, torch.get_num_threads())
    if device.type == "cuda":  # so that the measurement's matrices don't count as memory of the run
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return float(world.gather([peak]).sum())


def core_watch(world: World) -> CoreWatch:
    """What watches the cores. On a GPU one thread of each rank launches kernels."""
    environment = rank_environment(os.environ) if world.size > 1 else None
    computes = world.device.type == "cpu"
    threads = torch.get_num_threads() if computes else 1
    return CoreWatch(Contention(threads, 1 if environment is None else environment.local_size), computes)


def device_name(device: torch.device) -> str:
    """For people: the GPU's name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
