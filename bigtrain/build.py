"""RunConfig → live objects. The only place that wires parts together, and the only one that resolves factories.

Order of assembly: data → task → network (initialise, tie) → precision → compile → optimizer → restore. State is copied
into what exists; nothing is built from a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigtrain import __version__
from bigtrain.config.durations import parse_duration
from bigtrain.config.run import RunConfig, TrainerConfig
from bigtrain.data.audit.findings import Report
from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.data.limited import LimitedData
from bigtrain.data.loader import Batch, TrainLoader, keyed_samples, lengths_of, to_device
from bigtrain.data.order import BucketedOrder, ContiguousOrder, Order, ShuffledOrder
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.train_sample import TrainSample, train_sample_size
from bigtrain.distributed.replica import replicate
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.network import Network, tie_weights
from bigtrain.nn.ngram import CountsTrainingSplit
from bigtrain.optim.base import Optimizer
from bigtrain.optim.schedules import Schedule
from bigtrain.randomness import SeedDomain, mix, sample_keys
from bigtrain.registry import DATA, MODELS, OPTIMIZERS, SCHEDULERS, TASKS
from bigtrain.signals import StopRequest
from bigtrain.storage.checkpoint import Checkpoint, CheckpointStore
from bigtrain.tasks.base import Task, TrainingModule
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.throughput import flops_per_sample
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.cadence import Cadence, WorkUnits
from bigtrain.training.carried import carries_state, state_of
from bigtrain.training.evaluator import Evaluator
from bigtrain.training.extension import lay_out, record_extension
from bigtrain.training.machine import (
    choose_precision,
    choose_recording,
    compile_network,
    device_name,
    keep_threads,
    peak_flops,
    record_steps,
    records,
)
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.observer import Observer
from bigtrain.training.selection import Selection
from bigtrain.training.snapshot import Snapshot, live_tensors, read_state
from bigtrain.training.state import TrainState
from bigtrain.training.trainer import Limits, Trainer
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
    audit: Report | None = None  # of the data, where it was audited

    @cached_property
    def loader(self) -> TrainLoader:
        """This rank's micro-batches of the training split."""
        return build_loader(self)

    @cached_property
    def units(self) -> WorkUnits:
        """What turns the run's durations into steps."""
        return work_units(self.loader, self.data.spec, self.config.trainer)

    @property
    def optimal_loss(self) -> float | None:
        """The loss that no model can beat, where it is known of what this task asks."""
        return self.data.spec.optimal_loss if self.config.task.meets_optimum else None


def build_data(config: RunConfig, tokenizer: Tokenizer | None = None) -> DataModule:
    """The data module. `tokenizer`: a checkpoint's own."""
    data: DataModule = DATA.entry_of(config.data).load()(config.data, tokenizer)
    if config.trainer.limit_samples is None and not config.trainer.overfit:
        return data
    return LimitedData(data, config.trainer.limit_samples, config.trainer.overfit)


def build_parts(config: RunConfig, data: DataModule, world: World, spec: DataSpec | None = None) -> Parts:
    """Task and network for the data; `spec`: a checkpoint's own."""
    spec = spec or data.spec
    task: Task = TASKS.entry_of(config.task).load()(config.task, spec, data.tokenizer)
    with status_line("Drawing the initial weights", ""):
        network = build_network(config, task, spec, world.device)
    return Parts(config, data, task, network, TrainingModule(network, task), world)


def build_network(config: RunConfig, task: Task, spec: DataSpec, device: torch.device) -> Network:
    """Backbone and heads, tied; initialised from the seed, on the CPU: any device starts from the same weights."""
    torch.manual_seed(mix(config.seed, SeedDomain.INITIALISATION))
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
    for head in parts.network.heads.values():
        if isinstance(head, CountsTrainingSplit):
            head.count(parts.data.dataset("train"))
    loader = parts.loader
    if isinstance(loader.order, ContiguousOrder):
        parts.module.carried = state_of(parts.network, loader.order.batch_size)
    flops = flops_per_sample(parts.module, to_device(typical_batch(loader), world.device))
    precision = choose_precision(parts.module, settings, loader, flops, state, world)
    optimizer: Optimizer = OPTIMIZERS.entry_of(config.optimizer).load()(config.optimizer, parts.network)
    step_flops = flops * loader.order.samples_per_step
    choose_recording(parts.module, settings, optimizer, loader, precision, step_flops, state, world)
    with status_line("Compiling the model", ""):
        compile_network(parts.module, settings.compile, loader, precision, state, tracker, world)
    average = MovingAverage(live_tensors(parts.network), settings.ema_decay) if settings.ema_decay else None
    scaler = precision.scaler(world.device)
    documents = {"config.json": document, "data_spec.json": parts.data.spec.to_json()}
    if parts.data.tokenizer is not None:
        documents["tokenizer.json"] = parts.data.tokenizer.to_json()
    snapshot = Snapshot(parts.network, optimizer, average, scaler, state, documents, parts.module.carried)
    if resume is not None:
        snapshot.restore(resume)
    batch_size = evaluation_batch_size(settings, world.size)
    sample = build_train_sample(parts)
    evaluator = Evaluator(parts.module, parts.task, parts.data, precision, batch_size, world, sample)
    units = parts.units
    limits = build_limits(settings, units, flops, peak_flops(world, precision))
    if resume is not None:
        record_extension(state, resume, units, settings.max_duration)
    trainer = Trainer(
        module=parts.module,
        replica=replicate(parts.module, world),
        optimizer=optimizer,
        schedule=build_schedule(config, units, limits, state),
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
    if records(state):
        record_steps(trainer)
    return trainer


def build_loader(parts: Parts) -> TrainLoader:
    """This rank's micro-batches. Raises ConfigError for a batch that the ranks can't share."""
    settings, size, seed = parts.config.trainer, parts.world.size, parts.config.seed
    dataset, task = parts.data.dataset("train"), parts.task
    order = build_order(settings, dataset, seed, contiguous=carries_state(parts.network, dataset))
    micro_batch_size = settings.micro_batch_size
    if lengths_of(dataset) is None and settings.batch_size % ((micro_batch_size or 1) * size):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.batch_size is {settings.batch_size}, which {size} ranks times "
            f"trainer.micro_batch_size={micro_batch_size or 1} does not divide",
            fix=f"make it a multiple of {(micro_batch_size or 1) * size}",
        )
    if order.smallest_batch < size:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"a batch of {order.smallest_batch} samples can't be shared among {size} ranks",
            cause="batches of texts differ in size; the smallest is what is left over",
            fix="train in fewer ranks, or change trainer.batch_tokens or trainer.batch_size",
        )
    augment = getattr(parts.data, "augment", None)
    collate = lambda samples: task.collate(augment(samples) if augment else samples, training=True)  # noqa: E731
    partners = task.needs_partners or getattr(augment, "needs_partners", False)
    return TrainLoader(dataset, collate, order, micro_batch_size, parts.world, seed=seed, partners=partners)


def build_train_sample(parts: Parts) -> TrainSample | None:
    """The training samples that each evaluation measures beside the validation split."""
    settings, sizes = parts.config.trainer, parts.data.spec.sizes
    if not settings.eval_train or settings.overfit or not sizes.get("val"):
        return None
    return TrainSample(parts.data.dataset("train"), train_sample_size(sizes["train"], sizes["val"]))


def build_order(settings: TrainerConfig, dataset: Dataset, seed: int, contiguous: bool) -> Order:
    """Bucketed where samples differ in length; `contiguous` where the model carries its state.

    Raises ConfigError for `batch_tokens` that can't be kept to.
    """
    lengths = lengths_of(dataset)
    if lengths is None:
        if settings.batch_tokens is not None:
            raise ConfigError.of(
                "CONFIG-COMBINATION",
                "trainer.batch_tokens has no effect: the samples of this data are all of one size",
                fix="give trainer.batch_size",
            )
        order = ContiguousOrder if contiguous else ShuffledOrder
        return order(len(dataset), settings.batch_size, seed)
    try:
        return BucketedOrder(lengths, seed, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens)
    except ValueError as error:
        raise ConfigError.of(
            "CONFIG-COMBINATION", f"trainer.batch_tokens: {error}", fix="raise it, or shorten the samples"
        ) from error


def typical_batch(loader: TrainLoader) -> Batch:
    """A batch to count FLOPs on, on the host: one sample where all are alike, else a whole step's."""
    if lengths_of(loader.dataset) is None:
        first = np.zeros(1, dtype=np.int64)
        return loader.collate(keyed_samples(loader.dataset, first, sample_keys(0, 0, first), loader.partners))
    return loader.micro_batches(0)[0]


def build_selection(parts: Parts, evaluator: Evaluator, state: TrainState) -> Selection:
    """What chooses the best evaluation. Raises ConfigError for a metric that the task does not have."""
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


def build_observer(parts: Parts, tracker: Tracker) -> Observer:
    """What records samples at each evaluation, on rank 0."""
    enabled = parts.config.tracking.samples and parts.world.is_main
    return Observer(parts.task, parts.network, parts.data, parts.config, tracker, enabled)


def build_watch(parts: Parts, run_dir: Path, tracker: Tracker, first_step: int) -> Watch:
    """What looks closely at single steps: a profile of rank 0's, a search for non-finite values on every rank."""
    settings = parts.config.trainer
    profile = Profile(run_dir / "profile", tracker, first_step) if settings.profile and parts.world.is_main else None
    return Watch(profile, parts.module if settings.find_nonfinite else None)


def evaluation_batch_size(settings: TrainerConfig, ranks: int = 1) -> int:
    """Samples per forward pass of an evaluation: what fits in training fits here too."""
    return settings.micro_batch_size or max(1, settings.batch_size // ranks)


def work_units(loader: TrainLoader, spec: DataSpec, settings: TrainerConfig) -> WorkUnits:
    """What turns this run's durations into steps."""
    lengths = lengths_of(loader.dataset)
    tokens = spec.sequence_length if lengths is None else float(lengths.mean())
    whole = parse_duration(settings.max_duration)
    return WorkUnits(loader.order.samples_per_step, spec.sizes["train"], tokens, whole)


def build_limits(settings: TrainerConfig, units: WorkUnits, flops: float, peak: float | None) -> Limits:
    """The settings' durations in steps."""
    try:
        return Limits(
            total_steps=units.steps(settings.max_duration),
            total_seconds=parse_duration(settings.max_duration).seconds,
            log=Cadence(steps=settings.log_every),
            evaluate=Cadence.of(settings.eval_every, units),
            save=Cadence.of(settings.save_every, units),
            clip_norm=settings.clip_norm,
            samples_per_step=units.batch_size,
            tokens_per_step=None if units.sample_tokens is None else units.sample_tokens * units.batch_size,
            flops_per_sample=flops,
            peak_flops=peak,
        )
    except ValueError as error:
        raise ConfigError.of(
            "CONFIG-VALUE", f"a duration {error}", cause="trainer.max_duration, eval_every or save_every"
        ) from error


def build_schedule(config: RunConfig, units: WorkUnits, limits: Limits, state: TrainState) -> Schedule:
    """The learning-rate schedule."""
    factory = SCHEDULERS.entry_of(config.scheduler).load()
    return lay_out(factory, config.scheduler, units, limits.total_steps, state.lengths)


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
