"""The loop: read `fit`, then `train_step`, then `keep_cadences`.

Two contracts hold it together. Losses are sums: what a step divides by is counted over all micro-batches and ranks
before its first forward, so how the batch is cut changes only rounding. And step t is a function of (seed, t): data,
dropout and learning rate follow from its number, so a run that was killed anywhere goes on to the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from bigtrain.data.loader import TrainLoader, to_device
from bigtrain.data.randomness import mix
from bigtrain.distributed.world import World
from bigtrain.errors import NumericsError
from bigtrain.optim.schedules import Schedule
from bigtrain.tasks.base import Batch, LossOutput, TrainingModule
from bigtrain.tracking.throughput import memory_bytes
from bigtrain.tracking.tracker import Row, Tracker
from bigtrain.training.cadence import Cadence
from bigtrain.training.checkpoint import CheckpointStore
from bigtrain.training.evaluator import Evaluation, Evaluator
from bigtrain.training.nonfinite import NonFiniteGuard
from bigtrain.training.precision import ResolvedPrecision, overflowed
from bigtrain.training.signals import StopRequest
from bigtrain.training.snapshot import Snapshot
from bigtrain.training.state import TrainState


@dataclass(frozen=True)
class Limits:
    """How long, how often, how much: durations of the settings, in steps."""

    total_steps: int | None
    total_seconds: float | None
    log: Cadence
    evaluate: Cadence
    save: Cadence
    clip_norm: float | None
    samples_per_step: int
    tokens_per_step: int | None
    flops_per_sample: float
    peak_flops: float | None


@dataclass
class Trainer:
    """One run. Everything it needs is built elsewhere (`build.py`) and handed in."""

    module: TrainingModule
    optimizer: Optimizer
    schedule: Schedule
    scaler: GradScaler
    precision: ResolvedPrecision
    loader: TrainLoader
    evaluator: Evaluator
    checkpoints: CheckpointStore
    snapshot: Snapshot
    manifest_facts: dict[str, Any]
    tracker: Tracker
    show_samples: Callable[[Evaluation, int], None]
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
        self.interval = {
            name: torch.tensor(value, dtype=torch.float64, device=self.world.device)
            for name, value in self.state.interval.items()
        }
        self.grad_norm = torch.zeros((), device=self.world.device)
        self.last_logged = (self.state.step, self.state.train_seconds)

    def fit(self) -> str:
        """Trains to the end, or until a stop is asked for; returns why it stopped early, or "" at the end.

        Raises NumericsError when a loss or gradient is not finite; the weights are then the last good ones.
        """
        self.module.train()
        self.mark_best()
        self.keep_cadences()  # what the step of a resumed checkpoint still owes
        while not self.finished and not self.stop.reason:
            started = time.perf_counter()
            self.train_step()
            self.check_finite(wait=bool(self.owed()))  # waits for a GPU here, inside the clock
            self.state.train_seconds += time.perf_counter() - started
            self.keep_cadences()
        if self.finished and not self.owes("evaluate"):
            return ""
        self.check_finite(wait=True)
        self.save()
        return self.stop.reason

    @property
    def finished(self) -> bool:
        """Whether max_duration is reached."""
        if self.limits.total_steps is not None:
            return self.state.step >= self.limits.total_steps
        return self.state.train_seconds >= (self.limits.total_seconds or 0.0)

    def train_step(self) -> None:
        """One optimizer step: forward and backward over the micro-batches, then one update."""
        step = self.state.step
        micro_batches = self.loader.micro_batches(step)
        counts = self.global_counts(micro_batches)
        self.set_learning_rate(step)
        self.guard.before_forward()
        step_loss = torch.zeros((), device=self.world.device)
        for index, batch in enumerate(micro_batches):
            seed_generators(self.world.device, self.seed, step, self.world.rank, index)
            with self.precision.autocast(self.world.device):
                output = self.module(to_device(batch, self.world.device))
                loss = self.objective(output, counts)
            self.scaler.scale(loss).backward()
            step_loss += loss.detach()
            self.add_to_interval(output)
        self.update(step, step_loss)
        self.state.step += 1
        self.state.cadences_done = []
        self.tracker.step(self.state.step)

    def global_counts(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """Targets per loss term over all micro-batches and ranks of the step, known before its first forward."""
        counts: dict[str, Tensor] = {}
        for batch in micro_batches:
            for name, count in self.module.task.counts(batch).items():
                counts[name] = counts[name] + count if name in counts else count
        if self.world.size > 1:
            counts = {name: self.world.sum(count.to(self.world.device)) for name, count in counts.items()}
        return counts

    def objective(self, output: LossOutput, counts: dict[str, Tensor]) -> Tensor:
        """What a micro-batch back-propagates: Σ weight · sum / global count; × ranks, as DDP averages gradients."""
        terms = [term.weight * term.sum / max(float(counts[name]), 1.0) for name, term in output.terms.items()]
        return torch.stack(terms).sum() * self.world.size

    def set_learning_rate(self, step: int) -> None:
        """The schedule's factor of each group's peak rate."""
        factor = self.schedule(step)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor

    def update(self, step: int, step_loss: Tensor) -> None:
        """Clips and applies the gradients, unless they are not finite: then the step is masked on the device."""
        overflow = overflowed(self.scaler, self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.grad_norm = nn.utils.get_total_norm(gradients)
        if self.limits.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.limits.clip_norm, self.grad_norm)
        # Under fp16 an infinite gradient is a scale that was too high: the update is skipped, the scale halved.
        # At a scale of 1 or less the scale is not the reason any more.
        health = step_loss + self.grad_norm
        if overflow is not None:
            health = torch.where((overflow > 0) & (self.scaler._scale > 1), step_loss, health)  # type: ignore[operator]
        masked = self.guard.mask(step, health)
        if overflow is not None:
            masked = ((masked + overflow) > 0).float()
        self.optimizer.found_inf = masked  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scaler.update()
        self.updates += 1 - masked.long()

    def check_finite(self, wait: bool = False) -> None:
        """Ends the run when the device has flagged a step; the weights are still those before it."""
        bad_step = self.guard.first_bad_step(wait)
        if bad_step is None:
            return
        self.state.step = bad_step
        self.state.cadences_done = ["log", "evaluate", "save"]
        self.interval.clear()
        path = self.save()
        ids = self.loader.ids(bad_step).tolist()
        shown = ", ".join(map(str, ids[:64])) + (f", … ({len(ids)} in all)" if len(ids) > 64 else "")
        raise NumericsError.of(
            "LOSS-NONFINITE",
            f"the loss or its gradient is not finite at step {bad_step}",
            cause=f"training samples {shown}",
            fix=f"the weights before that step are in {path}; try a lower optimizer.learning_rate, "
            "trainer.clip_norm, or trainer.precision=fp32, and look at those samples",
        )

    def keep_cadences(self) -> None:
        """Log, evaluate, save, in this order: what this step owes and has not done yet."""
        owed = self.owed()
        if owed:
            self.check_finite(wait=True)
        if "log" in owed:
            self.log()
        if "evaluate" in owed:
            self.evaluate()
        if "save" in owed and not self.stop_left_evaluation():
            self.save()

    def owed(self) -> list[str]:
        """The cadences that are due at this step and not done, in their order."""
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

    def stop_left_evaluation(self) -> bool:
        """Whether a stop request ended this step's evaluation; `fit` then saves, and a resumed run evaluates again."""
        return bool(self.stop.reason) and self.owes("evaluate")

    def add_to_interval(self, output: LossOutput) -> None:
        """Adds a micro-batch to the sums behind the next logged loss; nothing is read back here."""
        for name, term in output.terms.items():
            for key, value in (
                (f"{name}.sum", term.weight * term.sum.detach()),
                (f"{name}.count", term.count),
            ):
                value = value.to(self.world.device, torch.float64)
                self.interval[key] = self.interval[key] + value if key in self.interval else value

    def log(self) -> None:
        """One row: the mean loss since the last row, rates and speed. The only place that waits for the device."""
        sums = {key: float(self.world.sum(value)) for key, value in self.interval.items()}
        self.interval.clear()
        terms = [key.removesuffix(".sum") for key in sums if key.endswith(".sum")]
        losses = {name: sums[f"{name}.sum"] / max(sums[f"{name}.count"], 1.0) for name in terms}
        row = self.row() | {"train/loss": sum(losses.values())}
        if len(losses) > 1:
            row |= {f"train/{name}": value for name, value in losses.items()}
        row |= {
            "optim/learning_rate": self.optimizer.param_groups[0]["lr"],
            "optim/grad_norm": float(self.grad_norm),
            "optim/updates": int(self.updates),
            "system/memory_bytes": memory_bytes(self.world.device),
        }
        self.tracker.scalars(row | self.speed())
        self.done("log")

    def speed(self) -> Row:
        """Throughput since the last row, evaluation and checkpoints left out."""
        steps = self.state.step - self.last_logged[0]
        seconds = self.state.train_seconds - self.last_logged[1]
        self.last_logged = (self.state.step, self.state.train_seconds)
        if steps == 0 or seconds == 0:
            return {}
        samples = steps * self.limits.samples_per_step / seconds
        speed: Row = {"perf/samples_per_second": samples, "perf/step_seconds": seconds / steps}
        if self.limits.tokens_per_step is not None:
            speed["perf/tokens_per_second"] = steps * self.limits.tokens_per_step / seconds
        if self.limits.peak_flops:
            speed["perf/share_of_peak"] = samples * self.limits.flops_per_sample / self.limits.peak_flops
        return speed

    def row(self) -> Row:
        """The columns that every row has."""
        step = self.state.step
        counted: Row = {"step": step, "samples": step * self.limits.samples_per_step}
        if self.limits.tokens_per_step is not None:
            counted["tokens"] = step * self.limits.tokens_per_step
        return counted | {"time_seconds": self.state.train_seconds}

    def evaluate(self) -> None:
        """The validation split; the best checkpoint so far is kept."""
        if not self.evaluator.has("val"):
            return self.done("evaluate")
        evaluation = self.evaluator.evaluate("val", stop=lambda: bool(self.stop.reason))
        if evaluation is None:
            return None
        tags: Row = {f"val/{name}": value for name, value in evaluation.metrics.items()}
        self.tracker.scalars(self.row() | tags)
        self.show_samples(evaluation, self.state.step)
        self.done("evaluate")
        if self.is_best(evaluation.metrics[self.module.task.primary_metric]):
            self.save()
            self.mark_best()
        return None

    def mark_best(self) -> None:
        """Points `best` at the best evaluation's checkpoint; again on resume, as a kill may have come before this."""
        best = self.state.best_step
        if best is not None and self.checkpoints.path_of(best).is_dir():
            self.checkpoints.mark_best(best)

    def is_best(self, metric: float) -> bool:
        """Whether this is the best evaluation so far; remembers it then."""
        best, sign = self.state.best_metric, 1 if self.module.task.higher_is_better else -1
        if metric != metric or (best is not None and sign * metric <= sign * best):
            return False
        self.state.best_metric, self.state.best_step = metric, self.state.step
        return True

    def save(self) -> Any:
        """Writes a checkpoint of this step (an existing one stays); returns where."""
        if "save" not in self.state.cadences_done:
            self.done("save")
        self.state.updates = int(self.updates)
        self.state.interval = {key: float(value) for key, value in self.interval.items()}
        return self.checkpoints.save(self.state.step, self.snapshot.files(), self.manifest_facts)


def seed_generators(device: torch.device, *where: int) -> None:
    """Seeds dropout from (seed, step, rank, micro-batch): 3 µs, and there is no generator state to save."""
    seed = mix(*where)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
