"""RunConfig → live objects. The only place that wires parts together, and the only one that resolves factories.

Order of assembly: data → task → network (initialise, tie) → precision → compile → optimizer → restore. State is copied
into what exists; nothing is built from a file.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bigtrain import __version__
from bigtrain.config.durations import parse_duration
from bigtrain.config.run import RunConfig, TrainerConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.limited import LimitedData
from bigtrain.data.loader import TrainLoader, to_device
from bigtrain.data.order import ShuffledOrder
from bigtrain.data.randomness import mix
from bigtrain.data.tokenizer import Tokenizer
from bigtrain.distributed.replica import replicate
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.network import Network, tie_weights
from bigtrain.optim.base import Optimizer
from bigtrain.optim.schedules import Schedule
from bigtrain.registry import DATA, MODELS, OPTIMIZERS, SCHEDULERS, TASKS
from bigtrain.tasks.base import Task, TrainingModule
from bigtrain.tracking.throughput import flops_per_sample, measured_peak_flops
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.cadence import Cadence, WorkUnits
from bigtrain.training.checkpoint import Checkpoint, CheckpointStore
from bigtrain.training.evaluator import Evaluator
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.precision import ResolvedPrecision, allow_tf32, resolve_precision
from bigtrain.training.samples import ShowSamples, no_observer, observer_for
from bigtrain.training.selection import Selection
from bigtrain.training.signals import StopRequest
from bigtrain.training.snapshot import Snapshot, live_tensors, read_state
from bigtrain.training.state import TrainState
from bigtrain.training.trainer import Limits, Trainer
from bigtrain.training.watch import Profile, Watch

_INITIALISATION = 0x1217  # the seed domain of initial weights, apart from those of steps


@dataclass
class Parts:
    """A model with its data and task, on a device: what train, eval and generate share."""

    config: RunConfig
    data: DataModule
    task: Task
    network: Network
    module: TrainingModule
    world: World

    @property
    def writes_text(self) -> bool:
        """Whether samples of generated text can be shown."""
        has_words = self.data.tokenizer is not None and "language_model" in self.network.heads
        return has_words and type(self.config.model).generates


def build_data(config: RunConfig, tokenizer: Tokenizer | None = None) -> DataModule:
    """The data module. `tokenizer`: a checkpoint's own."""
    data: DataModule = DATA.entry_of(config.data).load()(config.data, tokenizer)
    if config.trainer.limit_samples is None and not config.trainer.overfit:
        return data
    return LimitedData(data, config.trainer.limit_samples, config.trainer.overfit)


def build_parts(config: RunConfig, data: DataModule, world: World, spec: DataSpec | None = None) -> Parts:
    """Task and network for the data; `spec`: a checkpoint's own."""
    spec = spec or data.spec
    task: Task = TASKS.entry_of(config.task).load()(config.task, spec)
    network = build_network(config, task, spec, world.device)
    return Parts(config, data, task, network, TrainingModule(network, task), world)


def build_network(config: RunConfig, task: Task, spec: DataSpec, device: torch.device) -> Network:
    """Backbone and heads, tied; initialised from the seed, on the CPU: any device starts from the same weights."""
    torch.manual_seed(mix(config.seed, _INITIALISATION))
    backbone = MODELS.entry_of(config.model).load()(config.model, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config.model))
    tie_weights(network, config.model)
    return network.to(device)


def build_trainer(
    parts: Parts,
    run_dir: Path,
    tracker: Tracker,
    stop: StopRequest,
    document: dict[str, Any],
    resume: Checkpoint | None,
) -> Trainer:
    """Everything for a run, restored from `resume` where there is one."""
    config, world = parts.config, parts.world
    settings = config.trainer
    state = TrainState() if resume is None else read_state(resume)
    if resume is not None and resume.manifest.get("world_size") != world.size:
        state.threads = 0  # of so many ranks; this number of them has its own share of the cores
    keep_threads(state, tracker)
    loader = build_loader(parts)
    batch = to_device(loader.collate(loader.dataset.gather(np.zeros(1, dtype=np.int64))), world.device)
    flops = flops_per_sample(parts.module, batch)
    precision = choose_precision(parts, loader, flops, state)
    state.resolved["compile"] = compile_blocks(parts, loader, precision, tracker)

    optimizer: Optimizer = OPTIMIZERS.entry_of(config.optimizer).load()(config.optimizer, parts.network)
    average = MovingAverage(live_tensors(parts.network), settings.ema_decay) if settings.ema_decay else None
    scaler = precision.scaler(world.device)
    documents = {"config.json": document, "data_spec.json": parts.data.spec.to_json()}
    if parts.data.tokenizer is not None:
        documents["tokenizer.json"] = parts.data.tokenizer.to_json()
    snapshot = Snapshot(parts.network, optimizer, average, scaler, state, documents)
    if resume is not None:
        snapshot.restore(resume)
    evaluator = Evaluator(
        parts.module, parts.task, parts.data, precision, evaluation_batch_size(settings, world.size), world
    )
    limits = build_limits(config, parts.data.spec, flops, peak_flops(world, precision))
    return Trainer(
        module=parts.module,
        replica=replicate(parts.module, world),
        optimizer=optimizer,
        schedule=build_schedule(config, parts.data.spec, limits),
        average=average,
        scaler=scaler,
        precision=precision,
        loader=loader,
        evaluator=evaluator,
        selection=build_selection(parts, evaluator, state),
        checkpoints=CheckpointStore(run_dir / "checkpoints", settings.keep_last),
        snapshot=snapshot,
        manifest_facts=manifest_facts(parts, state),
        tracker=tracker,
        show_samples=build_observer(parts, tracker),
        watch=build_watch(parts, run_dir, tracker, state.step),
        limits=limits,
        world=world,
        seed=config.seed,
        state=state,
        stop=stop,
    )


def build_loader(parts: Parts) -> TrainLoader:
    """This rank's micro-batches. Raises ConfigError for a batch that the ranks can't share evenly."""
    settings, size = parts.config.trainer, parts.world.size
    micro_batch_size = settings.micro_batch_size or max(1, settings.batch_size // size)
    if settings.batch_size % (micro_batch_size * size):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.batch_size is {settings.batch_size}, which {size} ranks times "
            f"trainer.micro_batch_size={micro_batch_size} does not divide",
            fix=f"make it a multiple of {micro_batch_size * size}",
        )
    dataset = parts.data.dataset("train")
    collate = lambda samples: parts.task.collate(samples, training=True)  # noqa: E731
    order = ShuffledOrder(len(dataset), settings.batch_size, parts.config.seed)
    return TrainLoader(dataset, collate, order, micro_batch_size, parts.world)


def build_selection(parts: Parts, evaluator: Evaluator, state: TrainState) -> Selection:
    """What chooses the best evaluation. Raises ConfigError for a metric that the task does not have."""
    settings = parts.config.trainer.early_stopping
    selection = Selection(settings, parts.task.primary_metric, parts.task.higher_is_better, state)
    if settings.metric is not None and evaluator.has("val"):
        selection.require(evaluator.sample_metrics("val"))
    if settings.patience is not None and not evaluator.has("val"):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.early_stopping.patience is set, but this data has no validation split",
            fix="give validation data, or leave it out",
        )
    return selection


def build_observer(parts: Parts, tracker: Tracker) -> ShowSamples:
    """What is shown at each evaluation, by rank 0."""
    if not parts.world.is_main:
        return no_observer
    config = parts.config
    device = parts.world.device
    return observer_for(
        parts.task, parts.network, parts.data, config.tracking, config.seed, tracker, device, parts.writes_text
    )


def build_watch(parts: Parts, run_dir: Path, tracker: Tracker, first_step: int) -> Watch:
    """What looks closely at single steps: a profile of rank 0's, a search for non-finite values on every rank."""
    settings = parts.config.trainer
    profile = Profile(run_dir / "profile", tracker, first_step) if settings.profile and parts.world.is_main else None
    return Watch(profile, parts.module if settings.find_nonfinite else None)


def evaluation_batch_size(settings: TrainerConfig, ranks: int = 1) -> int:
    """Samples per forward pass of an evaluation: what fits in training fits here too."""
    return settings.micro_batch_size or max(1, settings.batch_size // ranks)


def work_units(settings: TrainerConfig, spec: DataSpec) -> WorkUnits:
    """What turns this run's durations into steps."""
    return WorkUnits(settings.batch_size, spec.sizes["train"], spec.sequence_length)


def build_limits(config: RunConfig, spec: DataSpec, flops: float, peak: float | None) -> Limits:
    """The settings' durations in steps."""
    settings, units = config.trainer, work_units(config.trainer, spec)
    try:
        total_steps = units.steps(settings.max_duration)
        tokens = spec.sequence_length
        return Limits(
            total_steps=total_steps,
            total_seconds=parse_duration(settings.max_duration).seconds,
            log=Cadence(steps=settings.log_every),
            evaluate=Cadence.of(settings.eval_every, units),
            save=Cadence.of(settings.save_every, units),
            clip_norm=settings.clip_norm,
            samples_per_step=settings.batch_size,
            tokens_per_step=None if tokens is None else tokens * settings.batch_size,
            flops_per_sample=flops,
            peak_flops=peak,
        )
    except ValueError as error:
        raise ConfigError.of(
            "CONFIG-VALUE", f"a duration {error}", cause="trainer.max_duration, eval_every or save_every"
        ) from error


def build_schedule(config: RunConfig, spec: DataSpec, limits: Limits) -> Schedule:
    """The learning-rate schedule."""
    warmup = getattr(config.scheduler, "warmup", "0step")  # one_cycle's rise is a fraction of the whole
    warmup_steps = work_units(config.trainer, spec).steps(warmup)
    factory = SCHEDULERS.entry_of(config.scheduler).load()
    return factory(config.scheduler, warmup_steps, limits.total_steps)  # type: ignore[no-any-return]


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


def choose_precision(parts: Parts, loader: TrainLoader, flops: float, state: TrainState) -> ResolvedPrecision:
    """As set, by rule, by probe; or what the resumed run resolved to."""
    if "precision" in state.resolved:
        return ResolvedPrecision(state.resolved["precision"], "as the run began with")
    settings = parts.config.trainer
    # Of the whole batch, not of a rank's share: the number of ranks does not change the format.
    forward_flops = flops / 3 * (settings.micro_batch_size or settings.batch_size)
    precision = resolve_precision(
        settings.precision,
        parts.world.device,
        forward_flops,
        lambda candidate: try_step(parts, loader, candidate),
    )
    name = parts.world.share(precision.name)  # ranks that probed may not agree
    state.resolved["precision"] = name
    return ResolvedPrecision(name, precision.reason)


def try_step(parts: Parts, loader: TrainLoader, precision: ResolvedPrecision) -> None:
    """A forward and backward pass that leaves no trace: gradients dropped, running statistics put back."""
    buffers = [(buffer, buffer.clone()) for buffer in parts.module.buffers()]
    batch = to_device(loader.micro_batches(0)[0], parts.world.device)
    try:
        with precision.autocast(parts.world.device):
            output = parts.module(batch)
            loss = torch.stack([term.sum for term in output.terms.values()]).sum()
        loss.backward()
    finally:
        parts.module.zero_grad()
        for buffer, kept in buffers:
            buffer.copy_(kept)


def compile_blocks(parts: Parts, loader: TrainLoader, precision: ResolvedPrecision, tracker: Tracker) -> str:
    """Compiles each block of the backbone in place (`torch.compile(module)` would rename every key); says what it did.

    A compiler that is missing or fails is one warning, and the run goes on without.
    """
    setting = parts.config.trainer.compile
    if setting == "false" or (setting == "auto" and parts.world.device.type == "cpu"):
        return "off (auto: on a CPU compiling costs more than it saves)" if setting == "auto" else "off"
    blocks: list[nn.Module] = list(parts.network.backbone.blocks)  # type: ignore[arg-type]
    for block in blocks:
        block.compile()
    try:
        try_step(parts, loader, precision)
    except Exception as error:  # any failure of the compiler: it has no common base class
        for block in blocks:
            block._compiled_call_impl = None
        parts.module.zero_grad()
        tracker.note(f"torch.compile failed ({type(error).__name__}); going on without", True)
        return "off (the compiler failed)"
    return f"{len(blocks)} blocks"


def peak_flops(world: World, precision: ResolvedPrecision) -> float | None:
    """The measured ceiling of all ranks' devices together in this precision; they measure at the same time."""
    device = world.device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peak = measured_peak_flops(device, precision.dtype)
    if device.type == "cuda":  # the matrices of the measurement are not the run's memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return float(world.gather([peak]).sum())


def manifest_facts(parts: Parts, state: TrainState) -> dict[str, Any]:
    """What a manifest says beside the files."""
    return {
        "bigtrain": __version__,
        "torch": torch.__version__,
        "world_size": parts.world.size,
        "threads": state.threads,
        "device": device_name(parts.world.device),
        "resolved": dict(state.resolved),
        "data_fingerprint": parts.data.spec.fingerprint,
    }


def device_name(device: torch.device) -> str:
    """For people: the GPU's name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
