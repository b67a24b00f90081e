"""The loop: read `fit`, then `train_step`, then `keep_cadences`.

Two contracts hold it together. Losses are sums: what a step divides by is counted over all micro-batches and ranks
before its first forward, so how the batch is cut changes only rounding. And step t is a function of (seed, t): data,
dropout and learning rate follow from its number, so a run that was killed anywhere goes on to the same bytes.

All ranks walk through here together. What one alone could see (a signal, the clock) they agree on in `plan_step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from bigtrain.data.loader import Prefetch, TrainLoader, to_device
from bigtrain.data.train_sample import TRAIN_SAMPLE
from bigtrain.distributed.replica import gradients_travel
from bigtrain.distributed.world import World
from bigtrain.errors import NumericsError
from bigtrain.optim.base import Optimizer
from bigtrain.optim.schedules import Schedule
from bigtrain.signals import StopRequest, reason_of
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.tasks.base import LossOutput, TrainingModule
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.throughput import memory_bytes
from bigtrain.tracking.tracker import Row, Tracker
from bigtrain.training.cadence import Cadence
from bigtrain.training.carried import bring_together
from bigtrain.training.evaluator import Evaluation, Evaluator
from bigtrain.training.loss_meter import LossMeter
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.nonfinite import NonFiniteGuard
from bigtrain.training.precision import ResolvedPrecision, overflowed
from bigtrain.training.selection import Selection
from bigtrain.training.snapshot import Snapshot
from bigtrain.training.state import TrainState
from bigtrain.training.step import RecordedStep, StepInputs, StepPlan, seed_generators
from bigtrain.training.watch import Watch


@dataclass(frozen=True)
class Limits:
    """How long, how often, how much: durations of the settings, in steps."""

    total_steps: int | None
    total_seconds: float | None
    log: Cadence
    evaluate: Cadence
    save: Cadence
    clip_norm: float | None
    samples_per_step: float  # where batches differ, on average
    tokens_per_step: float | None
    flops_per_sample: float
    peak_flops: float | None


@dataclass
class Trainer:
    """One run. Everything it needs is built elsewhere (`build.py`) and handed in."""

    module: TrainingModule
    replica: nn.Module  # the module itself, or what averages its gradients over the ranks
    optimizer: Optimizer
    schedule: Schedule
    average: MovingAverage | None
    scaler: GradScaler
    precision: ResolvedPrecision
    loader: TrainLoader
    evaluator: Evaluator
    selection: Selection
    checkpoints: CheckpointStore
    snapshot: Snapshot
    manifest_facts: dict[str, Any]
    tracker: Tracker
    show_samples: Callable[[Evaluation, int], None]
    watch: Watch
    limits: Limits
    world: World
    seed: int
    state: TrainState
    stop: StopRequest

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.guard = NonFiniteGuard(self.module, self.world.device)
        self.updates = torch.full((), self.state.updates, dtype=torch.int64, device=self.world.device)
        self.meter = LossMeter(self.state.interval, self.world)
        self.recorded: RecordedStep | None = None  # where a step is replayed instead of launched kernel by kernel
        self.one = torch.ones((), dtype=torch.float32, device=self.world.device)
        self.grad_norm = torch.zeros((), device=self.world.device)
        self.prefetch = Prefetch(self.loader, self.world.device)
        self.data_seconds = 0.0  # waited for batches since the last row
        self.last_logged = (self.state.step, self.state.train_seconds)
        self.seconds = self.state.train_seconds  # of this rank; the state's are rank 0's, as the ranks agreed
        self.stop_reason = ""  # as the ranks agreed

    def fit(self) -> str:
        """Trains to the end, or until a stop is asked for; returns why it stopped early, or "" at the end.

        Raises NumericsError when a loss or gradient is not finite; the weights are then the last good ones.
        """
        self.module.train()
        self.mark_best()
        try:
            while True:
                with self.clock():
                    plan = self.plan_step()
                self.keep_cadences()  # of the step before; of a resumed checkpoint, what its step still owes
                if self.finished or self.stop_reason:
                    break
                with self.clock(), self.watch.step(self.state.step):
                    self.train_step(plan)
                    self.check_finite(wait=bool(self.owed()))  # waits for a GPU here, inside the clock
        finally:
            self.watch.close()
            self.prefetch.close()
        if self.finished and not self.owes("evaluate"):
            return ""
        self.check_finite(wait=True)
        self.save()
        return self.stop_reason

    @property
    def finished(self) -> bool:
        """Whether max_duration is reached, or patience exhausted."""
        if self.selection.exhausted:
            return True
        if self.limits.total_steps is not None:
            return self.state.step >= self.limits.total_steps
        return self.state.train_seconds >= (self.limits.total_seconds or 0.0)

    def plan_step(self) -> StepPlan:
        """The next step's micro-batches. Here the ranks agree: on its target counts, on stopping, on the clock."""
        started = time.perf_counter()
        micro_batches = self.prefetch.micro_batches(self.state.step)
        self.data_seconds += time.perf_counter() - started
        counts: dict[str, float] = {}
        for batch in micro_batches:
            for name, count in self.module.task.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + float(count)
        told = self.world.gather([*counts.values(), self.stop.code, self.seconds])
        self.stop_reason = reason_of(int(told[:, -2].max()))
        self.state.train_seconds = float(told[0, -1])
        totals = np.maximum(told[:, :-2].sum(axis=0), 1.0)
        return StepPlan(micro_batches, dict(zip(counts, totals.tolist(), strict=True)))

    def train_step(self, plan: StepPlan) -> None:
        """One optimizer step: forward and backward over the micro-batches, then one update."""
        inputs = self.inputs(plan)
        if self.recorded is not None and self.recorded.fits(inputs):
            seed_generators(self.world.device, self.seed, self.state.step, self.world.rank, 0)
            self.recorded(inputs)
        else:
            self.compute(inputs)
        self.state.step += 1
        self.state.cadences_done = []
        self.tracker.step(self.state.step)

    def inputs(self, plan: StepPlan) -> StepInputs:
        """What the next step reads: its batches and counts, its number, the schedule's factor of each peak rate."""
        step = self.state.step
        factor = self.schedule(step)
        return StepInputs(plan.micro_batches, plan.counts, step, [peak * factor for peak in self.peak_rates])

    def compute(self, inputs: StepInputs) -> None:
        """All that a step does on the device. It may be recorded: nothing here reads a number back."""
        for group, rate in zip(self.optimizer.param_groups, inputs.rates, strict=True):
            group["lr"] = rate
        self.guard.before_forward()
        step_loss = torch.zeros((), device=self.world.device)
        for index, batch in enumerate(inputs.micro_batches):
            if not inputs.recorded:
                seed_generators(self.world.device, self.seed, inputs.step, self.world.rank, index)
            with gradients_travel(self.replica, now=index == len(inputs.micro_batches) - 1):
                with self.precision.autocast(self.world.device):
                    output = self.replica(to_device(batch, self.world.device))
                    loss = self.objective(output, inputs.counts)
                self.scaler.scale(loss).backward()
            step_loss += loss.detach()
            self.meter.add(output.terms)
        self.update(inputs.step, self.world.sum(step_loss))

    def record(self, plan: StepPlan) -> None:
        """From now on steps of this shape are replayed as one CUDA graph. Raises whatever the recording fails with."""
        sums = self.meter.pooled()
        try:
            with self.guard.everything_masked():
                self.recorded = RecordedStep(self.compute, self.inputs(plan), self.world.device)
        finally:
            self.meter.set(sums)
            self.optimizer.zero_grad()

    def objective(self, output: LossOutput, counts: dict[str, float] | dict[str, Tensor]) -> Tensor:
        """What a micro-batch back-propagates: Σ weight · sum / global count; × ranks, as gradients are averaged."""
        terms = []
        for name, term in output.terms.items():
            factor = term.weight * self.world.size / counts[name]
            terms.append(term.sum * (factor.to(term.sum.dtype) if isinstance(factor, Tensor) else factor))
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

    def update(self, step: int | Tensor, step_loss: Tensor) -> None:
        """Clips and applies the gradients, unless they are not finite: then the step is masked on the device."""
        overflow = overflowed(self.scaler, self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.grad_norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        divisor = self.one
        if self.limits.clip_norm is not None:
            divisor = torch.clamp((self.grad_norm / self.limits.clip_norm).float(), min=1.0)
        # Under fp16 an infinite gradient is a scale that was too high: the update is skipped, the scale halved.
        # At a scale of 1 or less the scale is not the reason any more.
        health = step_loss + self.grad_norm
        if overflow is not None:
            health = torch.where((overflow > 0) & (self.scaler._scale > 1), step_loss, health)  # type: ignore[operator]
        masked = self.guard.mask(step, health)
        if overflow is not None:
            masked = ((masked + overflow) > 0).float()
        self.optimizer.step(masked, divisor)
        self.optimizer.zero_grad()
        self.scaler.update()
        if self.average is not None:
            self.average.update(step, masked)
        self.updates += 1 - masked.long()

    def check_finite(self, wait: bool = False) -> None:
        """Ends the run when the device has flagged a step; the weights are still those before it."""
        bad_step = self.guard.first_bad_step(wait)
        if bad_step is None:
            return
        self.state.step = bad_step
        self.state.cadences_done = ["log", "evaluate", "save"]
        path = self.write_checkpoint({})
        self.world.gather([0.0])  # a rank that ends first would have rank 0 killed while it writes
        ids = self.loader.ids(bad_step).tolist()
        shown = ", ".join(map(str, ids[:64])) + (f", … ({len(ids)} in all)" if len(ids) > 64 else "")
        raise NumericsError.of(
            "LOSS-NONFINITE",
            f"the loss or its gradient is not finite at step {bad_step}",
            cause=f"training samples {shown}",
            fix=f"the weights before that step are in {path}; try a lower optimizer.learning_rate, "
            "trainer.clip_norm, or trainer.precision=fp32, and look at those samples (debug=nan finds the module)",
        )

    def keep_cadences(self) -> None:
        """Log, evaluate, save, in this order: what this step owes and has not done yet."""
        if self.owed():
            self.check_finite(wait=True)
        if self.owes("log"):
            self.log()
        if self.owes("evaluate"):
            self.evaluate()
        if self.owes("save") and not (self.stop_reason and self.owes("evaluate")):
            self.save()  # after a stop inside an evaluation `fit` saves, and a resumed run evaluates again

    def owed(self) -> list[str]:
        """The cadences that are due at this step and not done."""
        return [name for name in ("log", "evaluate", "save") if self.owes(name)]

    def owes(self, name: str) -> bool:
        """Whether a cadence is due at this step and not done."""
        if name in self.state.cadences_done or self.state.step == 0:
            return False
        since = self.state.train_seconds - self.state.cadence_seconds.get(name, 0.0)
        cadence: Cadence = getattr(self.limits, name)
        return self.finished or cadence.due(self.state.step, since)

    def done(self, name: str) -> None:
        """Records that a cadence of this step is done."""
        self.state.cadences_done.append(name)
        self.state.cadence_seconds[name] = self.state.train_seconds

    def log(self) -> None:
        """One row: the mean loss since the last row, rates and speed. Waits for the device."""
        losses = self.meter.means()
        row = self.row() | {"train/loss": sum(losses.values())}
        if len(losses) > 1:
            row |= {f"train/{name}": value for name, value in losses.items()}
        row |= {
            "optim/learning_rate": self.peak_rates[0] * self.schedule(self.state.step - 1),
            "optim/grad_norm": float(self.grad_norm),
            "optim/updates": int(self.updates),
            "system/memory_bytes": int(self.world.gather([memory_bytes(self.world.device)]).max()),
        }
        self.tracker.scalars(row | self.speed())
        self.done("log")

    def speed(self) -> Row:
        """Throughput since the last row, evaluation and checkpoints left out."""
        steps = self.state.step - self.last_logged[0]
        seconds = self.state.train_seconds - self.last_logged[1]
        data_seconds, self.data_seconds = self.data_seconds, 0.0
        self.last_logged = (self.state.step, self.state.train_seconds)
        if steps == 0 or seconds == 0:
            return {}
        samples = steps * self.limits.samples_per_step / seconds
        speed: Row = {"perf/samples_per_second": samples, "perf/step_seconds": seconds / steps}
        speed["perf/data_wait"] = data_seconds / seconds
        if self.limits.tokens_per_step is not None:
            speed["perf/tokens_per_second"] = steps * self.limits.tokens_per_step / seconds
        if self.limits.peak_flops:
            flops = samples * self.limits.flops_per_sample
            speed["perf/share_of_peak"] = flops / max(
                flops, self.limits.peak_flops
            )  # a faster step is a ceiling itself
        return speed

    def row(self) -> Row:
        """The columns that every row has."""
        step = self.state.step
        counted: Row = {"step": step, "samples": round(step * self.limits.samples_per_step)}
        if self.limits.tokens_per_step is not None:
            counted["tokens"] = round(step * self.limits.tokens_per_step)
        return counted | {"time_seconds": self.state.train_seconds}

    def evaluate(self) -> None:
        """The validation split, and beside it a sample of the training split; the best checkpoint so far is kept."""
        if not self.evaluator.has("val"):
            return self.done("evaluate")
        tags: Row = {}
        with self.evaluated_weights():
            for split in (TRAIN_SAMPLE, "val"):
                if self.evaluator.has(split):
                    evaluation = self.evaluator.evaluate(split, stop=self.agree_to_stop)
                    if evaluation is None:
                        return None
                    tags = {f"{split}/{name}": value for name, value in evaluation.metrics.items()} | tags
            assert evaluation is not None  # of the validation split, which comes last
            self.tracker.scalars(self.row() | tags)
            self.show_samples(evaluation, self.state.step)
        self.done("evaluate")
        if self.selection.observe(evaluation.metrics, self.state.step):
            self.save()
            self.mark_best()
        if self.selection.exhausted:
            self.tracker.note(f"stopped early: val/{self.selection.metric} has not become better for a while")
        return None

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """The network with the weights that are evaluated: their moving average, where one is kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def agree_to_stop(self) -> bool:
        """Whether any rank has been asked to stop."""
        self.stop_reason = reason_of(int(self.world.gather([self.stop.code]).max()))
        return bool(self.stop_reason)

    def mark_best(self) -> None:
        """Points `best` at the best evaluation's checkpoint; again on resume, as a kill may have come before this."""
        best = self.state.best_step
        if best is not None and self.world.is_main and self.checkpoints.path_of(best).is_dir():
            self.checkpoints.mark_best(best)

    def save(self) -> None:
        """Writes a checkpoint of this step, unless there is one."""
        if "save" not in self.state.cadences_done:
            self.done("save")
        sums = self.meter.pooled()
        self.meter.set(sums)  # as a resumed run has them: all on rank 0
        self.write_checkpoint(sums)

    def write_checkpoint(self, interval: dict[str, float]) -> Path:
        """What rank 0 does of saving; returns where the checkpoint lies. `interval`: sums of all ranks."""
        self.state.updates = int(self.updates)
        self.state.interval = interval
        if self.module.carried is not None:
            bring_together(self.module.carried, self.world)
        if not self.world.is_main:
            return self.checkpoints.path_of(self.state.step)
        with status_line("Writing a checkpoint", ""):
            return self.checkpoints.save(self.state.step, self.snapshot.files(), self.manifest_facts)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Counts as time of training, from the next `plan_step` on."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
