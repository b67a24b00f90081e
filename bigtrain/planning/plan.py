"""A plan: what a training with these settings takes, whether it fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bigtrain.build import Parts, build_loader, build_network
from bigtrain.config.run import Precision, RunConfig, TrainerConfig
from bigtrain.data.base import DataModule
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.planning.changes import (
    Change,
    Situation,
    cheapest_changes,
    of_setup,
    per_rank,
)
from bigtrain.planning.config import PlanConfig
from bigtrain.planning.cost import SHARES, StepCost, Work, counts_up_to, kind_of, step_cost
from bigtrain.planning.device import Device, planned_ranks
from bigtrain.planning.formula import ParameterCounts, certain_memory, parameter_counts, resolved
from bigtrain.planning.setup import Setup
from bigtrain.planning.sized_data import planned_data
from bigtrain.planning.step import StepMemory, measure_step
from bigtrain.planning.timing import step_seconds
from bigtrain.registry import OPTIMIZERS, TASKS
from bigtrain.tasks.base import TrainingModule
from bigtrain.training.cadence import WorkUnits
from bigtrain.training.precision import ResolvedPrecision, resolve_precision

_TRIED = 3  # micro-batches, largest first, and changes that are checked by a step each


@dataclass(frozen=True)
class Verified:
    """A change with which the planned step does fit, and what it then takes."""

    change: Change
    needed: int  # bytes of a rank
    seconds: float  # of a step
    seconds_before: float


@dataclass(frozen=True)
class Plan:
    """What is known before a training starts."""

    config: RunConfig
    settings: PlanConfig
    device: Device
    setup: Setup
    parameters: ParameterCounts
    step: StepMemory
    peak: dict[str, int]  # part → bytes of one rank
    available: int  # bytes that a rank's tensors can take
    largest_micro_batch: int | None  # that fits and divides a rank's share; None: none does
    changes: list[Verified]
    work: Work
    scaling: list[tuple[StepCost, bool]]  # by number of ranks, the planned one last; whether it fits
    steps: int | None
    tokens_per_sample: float | None
    notes: list[str] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Bytes of one rank."""
        return sum(self.peak.values())

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.needed <= self.available

    @property
    def cost(self) -> StepCost:
        """Of a step as planned."""
        return self.scaling[-1][0]


def make_plan(config: RunConfig, settings: PlanConfig) -> Plan:
    """Plans a training. Raises ConfigError for a model that counts instead of training, DataError for missing data."""
    if config.model.counts:
        fix = "plan another model; docs/training.md says what an n-gram model takes"
        raise ConfigError.of("PLAN-MODEL", "this model counts its data instead of training on it", fix=fix)
    device = Device.of(settings)
    if settings.measure:
        _require_here(device)
    ranks = planned_ranks(settings, config.trainer, device)
    setup = Setup.of(config, ranks, not device.is_gpu, settings.gpus_per_node)
    data, note = planned_data(config)
    notes = [*([note] if note else []), *_notes(config.trainer, setup)]
    available = device.available(ranks)
    planner = _Planner(config, data, device)
    step = planner.step(setup)
    if config.trainer.precision is Precision.auto and device.is_here:  # its rule asks for the work of a forward pass
        forward = step.flops_per_sample / 3 * (config.trainer.fixed_micro_batch_size or setup.batch)
        device_here = torch.device("cuda" if device.is_gpu else "cpu")
        setup = setup.changed(precision=resolve_precision(Precision.auto, device_here, forward, _untimed).name)
        step = planner.step(setup)
    state = certain_memory(config, data.spec) or step.peak(setup.changed(strategy="ddp"))
    setup = resolved(setup, state, device.memory)
    peak = step.peak(setup)
    situation = _situation(config, settings, step, setup, available, device)
    work = _work(config, data, settings, step, setup, device)
    units = _units(planner.parts, setup)
    return Plan(
        config=config,
        settings=settings,
        device=device,
        setup=setup,
        parameters=_parameters(planner),
        step=step,
        peak=peak,
        available=available,
        largest_micro_batch=_largest_micro_batch(planner, situation),
        changes=list(_verified(planner, situation, work)) if sum(peak.values()) > available else [],
        work=work,
        scaling=list(_scaling(situation, work)),
        steps=units.steps(config.trainer.max_duration),
        tokens_per_sample=units.sample_tokens,
        notes=notes,
    )


def _notes(settings: TrainerConfig, setup: Setup) -> Iterator[str]:
    """Where the plan is of something else than the settings."""
    if settings.tensor_parallel > 1:
        yield (
            f"planned as if trainer.tensor_parallel were 1: of {settings.tensor_parallel} ranks that compute a block "
            "together each reads all of their samples"
        )
    if setup.batch != settings.batch_size:
        yield (
            f"a batch of {settings.batch_size} can't be shared among {setup.ranks} ranks: planned with "
            f"trainer.batch_size={setup.batch}"
        )


def _require_here(device: Device) -> None:
    if not device.is_here:
        raise ConfigError.of(
            "PLAN-MEASURE",
            f"plan.measure times steps on this machine, and plan.gpu is {device.name}",
            fix=f"leave it out, or measure where there is a {device.name}, and give plan.share_of_peak here",
        )


def _untimed(_: ResolvedPrecision) -> None:
    """`auto` times nothing."""


class _Planner:
    """Measures steps of one training under different setups, each once."""

    def __init__(self, config: RunConfig, data: DataModule, device: Device):
        self.config, self.data, self.device = config, data, device
        self._known: dict[Any, StepMemory] = {}

    def step(self, setup: Setup, config: RunConfig | None = None) -> StepMemory:
        """Of these settings, or of others of the same data. Ranks and sharding are arithmetic: they change nothing."""
        config = config or self.config
        shape = setup.micro_batch, min(setup.passes, 2), setup.precision, setup.checkpointing
        key = (*shape, OPTIMIZERS.entry_of(config.optimizer).name, config.trainer.ema_decay)
        if key not in self._known:
            memory = self.device.memory if self.device.is_gpu else None
            self._known[key] = measure_step(config, self.data, setup, memory)
        return self._known[key]

    @property
    def parts(self) -> Parts:
        """The training's parts, on the `meta` device."""
        config, spec = self.config, self.data.spec
        task = TASKS.entry_of(config.task).load()(config.task, spec, self.data.tokenizer)
        with torch.device("meta"):
            network = build_network(config, task, spec, torch.device("meta"), draw=False)
        return Parts(config, self.data, task, network, TrainingModule(network, task), World(0, 1, torch.device("cpu")))


def _parameters(planner: _Planner) -> ParameterCounts:
    """By formula, else by building on the `meta` device."""
    if (counts := parameter_counts(planner.config, planner.data.spec)) is not None:
        return counts
    network = planner.parts.network
    sizes = {id(parameter): parameter.numel() for parameter in network.parameters()}
    blocks = sum(parameter.numel() for block in network.backbone.ordered_blocks() for parameter in block.parameters())
    backbone = sum({id(parameter): parameter.numel() for parameter in network.backbone.parameters()}.values())
    return ParameterCounts(backbone - blocks, blocks, sum(sizes.values()) - backbone)


def _situation(
    config: RunConfig, settings: PlanConfig, step: StepMemory, setup: Setup, available: int, device: Device
) -> Situation:
    return Situation(
        setup,
        step.whole_peak(setup),
        available,
        step.num_blocks,
        step.in_blocks,
        step.block_bytes,
        device.is_gpu,
        OPTIMIZERS.entry_of(config.optimizer).name,
        "trainer.gpus" if settings.gpus is None else "plan.gpus",
    )


def _work(
    config: RunConfig, data: DataModule, settings: PlanConfig, step: StepMemory, setup: Setup, device: Device
) -> Work:
    usual = SHARES[kind_of(config.model)][0 if device.is_gpu else 1]
    samples = setup.micro_batch * min(setup.passes, 2)
    weights = step.phases["update"]["weights"]
    share, peak = settings.share_of_peak or usual, device.peak_flops(setup.precision)
    if settings.measure:
        share = step.flops_per_sample * setup.share / (step_seconds(config, data, setup) * peak)
    traffic = step.traffic / samples / (1 + setup.computed_again)
    return Work(step.flops_per_sample, traffic, weights, peak, share, device.sheet, shared=not device.is_gpu)


def _units(parts: Parts, setup: Setup) -> WorkUnits:
    loader = build_loader(parts)
    units = WorkUnits.of(loader, parts.data.spec, parts.config.trainer)
    return replace(units, batch_size=units.batch_size * setup.batch / parts.config.trainer.batch_size)


def _fits(step: StepMemory, setup: Setup, available: int) -> bool:
    return sum(step.peak(setup).values()) <= available


def _largest_micro_batch(planner: _Planner, situation: Situation) -> int | None:
    """Of those that divide a rank's share: guessed by arithmetic, checked by a step each."""
    setup = situation.setup
    if planner.config.trainer.batch_tokens and not planner.config.trainer.micro_batch_size:
        return setup.micro_batch if situation.needed <= situation.available else None
    sizes = [size for size in range(setup.share, 0, -1) if setup.share % size == 0]
    guessed = [size for size in sizes if _guessed(situation, setup.changed(micro_batch=size)) <= situation.available]
    above = [size for size in sizes if size > max(guessed, default=0)][-1:]
    for size in [*above, *guessed[:_TRIED]]:
        other = setup.changed(micro_batch=size)
        if _fits(planner.step(other), other, situation.available):
            return size
    return None


def _guessed(situation: Situation, setup: Setup) -> int:
    parts = dict(situation.parts) | of_setup(situation, setup)
    return sum(per_rank(parts, setup, situation.num_blocks, situation.in_blocks).values())


def _verified(planner: _Planner, situation: Situation, work: Work) -> Iterator[Verified]:
    """The cheapest changes with which a step does fit."""
    before, found = step_cost(work, situation.setup).seconds, 0
    for change in cheapest_changes(situation, limit=2 * _TRIED):
        config, setup = planner.config, change.setup or situation.setup
        if change.optimizer:
            config = replace(config, optimizer=OPTIMIZERS[change.optimizer].config_class())
        if not change.average:
            config = replace(config, trainer=replace(config.trainer, ema_decay=None))
        step = planner.step(setup, config)
        if found < _TRIED and _fits(step, setup, situation.available):
            found += 1
            needed = sum(step.peak(setup).values())
            faster = planner.device.peak_flops(setup.precision)
            yield Verified(change, needed, step_cost(replace(work, peak_flops=faster), setup).seconds, before)


def _scaling(situation: Situation, work: Work) -> Iterator[tuple[StepCost, bool]]:
    """The same training on 1, 2, 4, … ranks: the batch stays, a rank's share of it shrinks."""
    planned = situation.setup
    for ranks in counts_up_to(planned.ranks):
        if planned.batch % ranks:
            continue
        share = planned.batch // ranks
        micro = max(size for size in range(1, min(share, planned.micro_batch) + 1) if share % size == 0)
        setup = planned.changed(ranks=ranks, micro_batch=micro, strategy="ddp" if ranks == 1 else planned.strategy)
        available = situation.available
        if not situation.has_gpu:  # the ranks share the machine
            available = available * planned.ranks // ranks
        yield step_cost(work, setup), _guessed(situation, setup) <= available
