"""RunConfig → live objects. The only place that wires parts together, and the only one that resolves factories.

Order of assembly: data → task → network (initialise, tie) → precision → optimizer → compile → restore → replicate →
trainer. State is copied into what exists; nothing is built from a file. A network that is split over ranks is split
before it is initialised, and so before anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bigtrain.config.run import RunConfig, TrainerConfig
from bigtrain.data.audit.findings import Report
from bigtrain.data.base import DataModule, DataSpec, as_data_module
from bigtrain.data.fixed_sample import TRAIN_SAMPLE, FixedSample, train_sample_size
from bigtrain.data.limited import LimitedData
from bigtrain.data.loader import TrainLoader, to_device
from bigtrain.data.order import ContiguousOrder, choose_order
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.distributed.strategy import Strategy, choose_strategy, gathered, replicate, reshard
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.network import Network, tie_weights
from bigtrain.nn.init import draw_weights
from bigtrain.nn.ngram import CountsTrainingSplit
from bigtrain.optim.base import Optimizer
from bigtrain.optim.schedules import Schedule
from bigtrain.randomness import SeedDomain, mix
from bigtrain.registry import DATA, MODELS, OPTIMIZERS, SCHEDULERS, TASKS
from bigtrain.signals import StopRequest
from bigtrain.storage.checkpoint import Checkpoint, CheckpointStore
from bigtrain.tasks.base import Task, TrainingModule
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.throughput import flops_per_sample
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.cadence import Cadences, Length, WorkUnits, length_and_cadences
from bigtrain.training.evaluator import Evaluation, Evaluator
from bigtrain.training.extension import lay_out, record_extension
from bigtrain.training.machine import (
    choose_checkpointing,
    choose_precision,
    choose_recording,
    compile_network,
    keep_threads,
    peak_flops,
    precision_of_shards,
    records,
)
from bigtrain.training.micro_batch import choose_micro_batch_size
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.observer import Observer
from bigtrain.training.precision import ResolvedPrecision
from bigtrain.training.recording import record_steps
from bigtrain.training.recurrent_state import carries_state, initial_state
from bigtrain.training.selection import Selection
from bigtrain.training.sharded_module import bytes_without_shards, require_elementwise, sharded_module
from bigtrain.training.snapshot import Snapshot, live_tensors, read_state
from bigtrain.training.speed_meter import Throughput
from bigtrain.training.state import TrainState
from bigtrain.training.trainer import Trainer
from bigtrain.training.validation_sample import choose_validation_samples
from bigtrain.training.watch import Profile, Watch


@dataclass
class Parts:
    """A model with its data and task, on a device: what train, eval and generate share."""

    config: RunConfig
    data: DataModule
    task: Task
    network: Network
    module: TrainingModule
    world: World
    strategy: Strategy = Strategy("single", "one rank")
    audit: Report | None = None  # of the data, where it was audited

    @cached_property
    def loader(self) -> TrainLoader:
        """This rank's micro-batches of the training split."""
        return build_loader(self)

    @cached_property
    def units(self) -> WorkUnits:
        """What turns the run's durations into steps."""
        return WorkUnits.of(self.loader, self.data.spec, self.config.trainer)

    @property
    def optimal_loss(self) -> float | None:
        """The loss that no model can beat, where it is known of what this task asks."""
        return self.data.spec.optimal_loss if self.config.task.meets_optimum else None


def build_data(config: RunConfig, tokenizer: Tokenizer | None = None) -> DataModule:
    """The data module. `tokenizer`: a checkpoint's own."""
    data = as_data_module(DATA.entry_of(config.data).load()(config.data, tokenizer))
    if config.trainer.limit_samples is None and not config.trainer.overfit:
        return data
    return LimitedData(data, config.trainer.limit_samples, config.trainer.overfit)


def build_parts(
    config: RunConfig,
    data: DataModule,
    world: World,
    spec: DataSpec | None = None,
    *,
    draw: bool = True,
    resolved: Mapping[str, str] | None = None,
) -> Parts:
    """Task and network for the data; `spec`: a checkpoint's own; `draw`: see `build_network`; `resolved`: what `auto`
    became in a run that is resumed.
    """
    spec = spec or data.spec
    task: Task = TASKS.entry_of(config.task).load()(config.task, spec, data.tokenizer)
    with status_line("Drawing the initial weights", ""):
        network = undrawn_network(config, task, spec)
        strategy = choose_strategy(config.trainer.strategy, world, lambda: bytes_without_shards(network, config))
        if strategy.shards:
            module = sharded_module(network, task, config, world, strategy, resolved or {}, draw=draw)
        else:
            if draw:
                draw_weights(network, config.seed)
            module = TrainingModule(network.to(world.device), task)
    return Parts(config, data, task, module.network, module, world, strategy)


def build_network(config: RunConfig, task: Task, spec: DataSpec, device: torch.device, *, draw: bool = True) -> Network:
    """Backbone and heads, tied; drawn from the seed, on the CPU: any device starts from the same weights.

    Without `draw` weights can be uninitialised memory: for a caller that then loads all of them.
    """
    network = undrawn_network(config, task, spec)
    if draw:
        draw_weights(network, config.seed)
    return network.to(device)


def undrawn_network(config: RunConfig, task: Task, spec: DataSpec) -> Network:
    """Backbone and heads, tied, on the CPU. What is declared (`nn/init.py`) is memory that nothing has written to, and
    that so takes none of the machine's.
    """
    torch.manual_seed(mix(config.seed, SeedDomain.INITIALISATION))  # for constructors of plug-ins that draw
    backbone = MODELS.entry_of(config.model).load()(config.model, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config.model))
    tie_weights(network, config.model)
    return network


def build_trainer(
    parts: Parts,
    run_dir: Path,
    tracker: Tracker,
    stop: StopRequest,
    document: dict[str, Any],
    resume: Checkpoint | None,
) -> Trainer:
    """A run, ready to `fit`: first its parts are built, then restored from `resume`, then handed to the trainer."""
    config, settings, world, module = parts.config, parts.config.trainer, parts.world, parts.module
    state = begin_state(resume, world, tracker)  # first: what is built depends on what the run resolved at its start
    optimizer, precision, flops = build_step(parts, state, tracker)
    average = MovingAverage(live_tensors(parts.network), settings.ema_decay) if settings.ema_decay else None
    scaler = precision.scaler(world.device)
    snapshot = Snapshot(module, optimizer, average, scaler, state, parts.data, world, config=document)
    if resume is not None:
        snapshot.restore(resume)
        record_extension(state, resume, parts.units, settings.max_duration)
    length, cadences = length_and_cadences(settings, parts.units, state)
    evaluator = build_evaluator(parts, precision, length, cadences)
    trainer = Trainer(
        module=module,
        replica=replicate(module, world, parts.strategy),
        strategy=parts.strategy,
        optimizer=optimizer,
        schedule=build_schedule(config, parts.units, length, state),
        clip_norm=settings.clip_norm,
        average=average,
        scaler=scaler,
        precision=precision,
        loader=parts.loader,
        evaluator=evaluator,
        selection=build_selection(parts, evaluator, state),
        checkpoints=CheckpointStore(run_dir / "checkpoints", settings.keep_last),
        snapshot=snapshot,
        tracker=tracker,
        show_samples=build_observer(parts, precision, tracker),
        watch=build_watch(parts, run_dir, tracker, state.step),
        length=length,
        cadences=cadences,
        throughput=Throughput.of(parts.units, flops, peak_flops(world, precision)),
        world=world,
        seed=config.seed,
        state=state,
        stop=stop,
    )
    if records(state):
        record_steps(trainer)
    return trainer


def begin_state(resume: Checkpoint | None, world: World, tracker: Tracker) -> TrainState:
    """A fresh state, or the checkpoint's; and torch's CPU threads as the run began with."""
    state = TrainState() if resume is None else read_state(resume)
    if resume is not None and resume.manifest.get("world_size") != world.size:
        state.threads = 0  # this number of ranks shares the cores otherwise
    keep_threads(state, tracker)
    return state


def build_step(parts: Parts, state: TrainState, tracker: Tracker) -> tuple[Optimizer, ResolvedPrecision, float]:
    """Prepares the module for training; returns the optimizer, the number format and FLOPs per sample.

    Choices of how it is computed (precision, compiled blocks, recorded steps, …) are kept in `state.resolved`.
    """
    config, module, loader, world = parts.config, parts.module, parts.loader, parts.world
    for head in parts.network.heads.values():
        if isinstance(head, CountsTrainingSplit):
            head.count(parts.data.dataset("train"))
    if isinstance(loader.order, ContiguousOrder):
        module.recurrent_state = initial_state(parts.network, loader.order.batch_size)
    state.resolved["strategy"] = str(parts.strategy)
    gathered_in = precision_of_shards(config.trainer, world.device, state.resolved) if parts.strategy.shards else "fp32"
    with ResolvedPrecision(gathered_in, "").autocast(world.device):
        blocks = parts.network.backbone.ordered_blocks() if world.tensor_parallel > 1 else ()
        batch = to_device(loader.typical_batch(), world.device)
        flops = flops_per_sample(module, batch, blocks, world.tensor_parallel)
    reshard(module)
    choose_checkpointing(module, config.trainer.activation_checkpointing, state)
    precision = choose_precision(module, config.trainer, loader, flops, state, world, parts.strategy.shards)
    choose_micro_batch_size(module, config.trainer, loader, precision, state, world, parts.strategy.shards)
    optimizer: Optimizer = OPTIMIZERS.entry_of(config.optimizer).load()(config.optimizer, parts.network)
    require_elementwise(optimizer, world)
    step_flops = flops * loader.order.samples_per_step
    choose_recording(module, config.trainer, optimizer, loader, precision, step_flops, state, world)
    with status_line("Compiling the model", ""):
        compile_network(module, config.trainer.compile, loader, precision, state, tracker, world)
    return optimizer, precision, flops


def build_loader(parts: Parts) -> TrainLoader:
    """This rank's micro-batches. Raises ConfigError for a batch that the ranks can't share."""
    settings, size, seed = parts.config.trainer, parts.world.data_size, parts.config.seed
    dataset, task = parts.data.dataset("train"), parts.task
    contiguous = carries_state(parts.network, dataset)
    order = choose_order(settings, len(dataset), dataset.lengths, seed, contiguous, size, dataset.sources)
    augment = parts.data.augment
    collate = lambda samples: task.collate(augment(samples) if augment else samples, training=True)  # noqa: E731
    partners = task.needs_partners or (augment is not None and augment.needs_partners)
    return TrainLoader(
        dataset, collate, order, settings.fixed_micro_batch_size, parts.world, seed=seed, partners=partners
    )


def build_evaluator(parts: Parts, precision: ResolvedPrecision, length: Length, cadences: Cadences) -> Evaluator:
    """Of the validation and test splits; and of fixed samples, in training: of validation where it is large, and of the
    training split to compare it with.
    """
    settings, sizes = parts.config.trainer, parts.data.spec.sizes
    samples: dict[str, FixedSample] = {}
    if whole := sizes.get("val", 0):
        size = choose_validation_samples(settings, whole, parts.units, length, cadences)
        if size < whole:
            dataset = parts.data.dataset("val")
            carries = carries_state(parts.network, dataset)
            samples["val"] = FixedSample(dataset, size, SeedDomain.VALIDATION_SAMPLE, in_stretches=carries)
        if settings.eval_train and not settings.overfit:
            dataset = parts.data.dataset("train")
            of_train = train_sample_size(sizes["train"], size)
            samples[TRAIN_SAMPLE] = FixedSample(dataset, of_train, SeedDomain.TRAIN_SAMPLE, dataset.contiguous)
    batch_size = evaluation_batch_size(settings, parts.loader.micro_batch_size, parts.world.data_size)
    return Evaluator(parts.module, parts.task, parts.data, precision, batch_size, parts.world, samples)


def build_selection(parts: Parts, evaluator: Evaluator, state: TrainState) -> Selection:
    """The choice of the best evaluation. Raises ConfigError for a metric that the task does not have."""
    settings = parts.config.trainer.early_stopping
    selection = Selection(settings, parts.config.task, state)
    if settings.metric is not None and evaluator.has("val"):
        selection.require(evaluator.sample_metrics("val"))
    if settings.patience is not None and not evaluator.has("val"):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            "trainer.early_stopping.patience is set, but this data has no validation split",
            fix="give validation data, or leave it out",
        )
    return selection


def build_observer(parts: Parts, precision: ResolvedPrecision, tracker: Tracker) -> Callable[[Evaluation, int], None]:
    """What records samples at each evaluation, on rank 0; the weights of a sharded network are gathered for it.
    Ranks that compute its blocks with rank 0 write the same, and record nothing.
    """
    enabled, writes = parts.config.tracking.samples, parts.world.data_rank == 0
    observer = Observer(parts.task, parts.network, parts.data, parts.config, tracker, enabled and writes)
    if not (enabled and parts.strategy.shards):
        return observer

    def show(evaluation: Evaluation, step: int) -> None:
        with gathered(parts.module), precision.autocast(parts.world.device):
            observer(evaluation, step)

    return show


def build_watch(parts: Parts, run_dir: Path, tracker: Tracker, first_step: int) -> Watch:
    """Diagnosis of single steps: a profile on rank 0, a search for non-finite values on every rank."""
    settings = parts.config.trainer
    profile = Profile(run_dir / "profile", tracker, first_step) if settings.profile and parts.world.is_main else None
    return Watch(profile, parts.module if settings.find_nonfinite else None)


def evaluation_batch_size(settings: TrainerConfig, micro_batch_size: int | None, ranks: int = 1) -> int:
    """Samples per forward pass of an evaluation: what fits in training fits here too."""
    return micro_batch_size or max(1, settings.batch_size // ranks)


def build_schedule(config: RunConfig, units: WorkUnits, length: Length, state: TrainState) -> Schedule:
    """The learning-rate schedule."""
    factory = SCHEDULERS.entry_of(config.scheduler).load()
    return lay_out(factory, config.scheduler, units, length.steps, state.lengths)
