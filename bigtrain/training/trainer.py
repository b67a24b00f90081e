"""The loop: read `fit`, then `plan_step`, `train_step`, `finish_step`, which every step goes through in this order.

Two contracts hold it together. Losses are sums: what a step divides by is counted over all micro-batches and ranks
before its first forward, so how the batch is cut changes only rounding. And step t is a function of (seed, t): data,
dropout and learning rate follow from its number, so a run that was killed anywhere goes on to the same bytes.

All ranks run this loop in step. What one rank alone knows (a signal, the time) they agree on in `plan_step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._C._profiler import _RecordFunctionFast
from torch.amp import GradScaler

from bigtrain.data.fixed_sample import TRAIN_SAMPLE
from bigtrain.data.loader import Prefetch, TrainLoader, to_device
from bigtrain.distributed.shards import global_norm
from bigtrain.distributed.strategy import Strategy, no_sync
from bigtrain.distributed.world import World
from bigtrain.optim.base import Optimizer
from bigtrain.optim.schedules import Schedule
from bigtrain.signals import StopRequest, reason_of
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.memory import memory_bytes
from bigtrain.tracking.tracker import Row, Tracker
from bigtrain.training.cadence import CADENCES, Cadences, Length
from bigtrain.training.evaluator import Evaluation, Evaluator
from bigtrain.training.loss_meter import LossMeter
from bigtrain.training.machine import core_watch
from bigtrain.training.micro_batch import FittingMicroBatches
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.nonfinite import NonFiniteGuard, nonfinite_error
from bigtrain.training.plan import StepPlan
from bigtrain.training.precision import ResolvedPrecision, unscale
from bigtrain.training.recurrent_state import gather_state
from bigtrain.training.saver import Saver
from bigtrain.training.selection import Selection
from bigtrain.training.snapshot import Snapshot
from bigtrain.training.speed_meter import SpeedMeter, Throughput
from bigtrain.training.state import TrainState
from bigtrain.training.step import RecordedStep, StepInputs, seed_generators
from bigtrain.training.watch import OPTIMIZER_SPAN, Watch


@dataclass
class Trainer:
    """One run. Everything it needs is built elsewhere (`build.py`) and handed in."""

    module: TrainingModule
    replica: nn.Module  # the module itself, or what averages its gradients over the ranks
    strategy: Strategy
    optimizer: Optimizer
    schedule: Schedule
    clip_norm: float | None
    average: MovingAverage | None
    scaler: GradScaler
    precision: ResolvedPrecision
    loader: TrainLoader
    evaluator: Evaluator
    selection: Selection
    checkpoints: CheckpointStore
    snapshot: Snapshot
    tracker: Tracker
    show_samples: Callable[[Evaluation, int], None]
    watch: Watch
    length: Length
    cadences: Cadences
    throughput: Throughput
    world: World
    seed: int
    state: TrainState
    stop: StopRequest

    def __post_init__(self) -> None:
        device = self.world.device
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.guard = NonFiniteGuard(self.module, device)
        self.loss_meter = LossMeter(self.state.loss_sums, self.world)
        self.speed_meter = SpeedMeter(self.throughput, self.state.step, self.state.train_seconds)
        self.cores = core_watch(self.world)
        self.prefetch = Prefetch(self.loader, device)
        self.fitting = FittingMicroBatches(self.loader, self.state, self.world, self.tracker, self.undo_passes)
        self.saver = Saver(self.checkpoints, self.snapshot)
        self.recorded: RecordedStep | None = None  # where a step is replayed instead of launched kernel by kernel
        self.updates = torch.full((), self.state.updates, dtype=torch.int64, device=device)
        self.grad_norm = torch.zeros((), device=device)
        self.one = torch.ones((), dtype=torch.float32, device=device)
        self.stop_reason = ""  # as the ranks agreed
        self.best_metrics: dict[str, float] | None = None  # on validation, where this process measured them
        self.agreed_seconds = self.state.train_seconds  # rank 0's at the last plan

    def fit(self) -> str:
        """Trains to the end, or until a stop is asked for; returns why it stopped early, or "" at the end.

        Raises NumericsError when a loss or gradient is not finite; the weights are then the last good ones. Raises
        MachineError when a checkpoint can't be written, at the next step or at the end.
        """
        self.module.train()
        self.mark_best()
        with self.saver:  # at its end, however it is reached, every checkpoint is on disk
            try:
                self.finish_step()  # of a resumed checkpoint: what its step had not done yet when the run was killed
                while not self.finished:
                    with self.clock():
                        plan = self.plan_step()
                    if self.stop_reason:
                        break
                    with self.clock(), self.watch.step(self.state.step):
                        self.train_step(plan)
                        self.check_finite(wait=self.due())  # waits for a GPU here, inside the clock
                    self.finish_step()
            finally:
                self.watch.close()
                self.prefetch.close()
            if self.finished and not self.due("evaluate"):
                return ""
            self.check_finite(wait=True)
            self.save()
        return self.stop_reason

    @property
    def finished(self) -> bool:
        """Whether max_duration is reached, or patience exhausted."""
        return self.selection.exhausted or self.length.reached(self.state.step, self.decision_seconds)

    @property
    def decision_seconds(self) -> float:
        """Seconds of training that decisions go by: the same on every rank, of several ranks as of the last plan."""
        return self.state.train_seconds if self.world.size == 1 else self.agreed_seconds

    def plan_step(self) -> StepPlan:
        """The next step's micro-batches. Here the ranks agree: on its target counts, on stopping, on the time."""
        with self.speed_meter.waiting_for_data():
            micro_batches = self.prefetch.micro_batches(self.state.step)
        counts: dict[str, float] = {}
        for batch in micro_batches:
            for name, count in self.module.task.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + float(count)
        plan = StepPlan.agree(self.world, micro_batches, counts, self.stop.code, self.state.train_seconds)
        self.stop_reason, self.agreed_seconds = plan.stop_reason, plan.train_seconds
        return plan

    def train_step(self, plan: StepPlan) -> None:
        """One optimizer step: forward and backward over the micro-batches, then one update."""
        inputs = self.inputs(plan)
        if self.recorded is not None and self.recorded.fits(inputs):
            seed_generators(self.world.device, self.seed, self.state.step, self.world.data_rank, 0)
            self.recorded(inputs)
        else:
            self.compute(inputs)
        self.state.step += 1
        self.state.cadences_done = []
        self.tracker.step(self.state.step)

    def inputs(self, plan: StepPlan) -> StepInputs:
        """What the step reads: its batches and counts, its number, the learning rate of each parameter group."""
        step = self.state.step
        factor = self.schedule(step)
        idle = (plan.passes - len(plan.micro_batches)) * self.strategy.shards  # where every pass communicates
        return StepInputs(plan.micro_batches, plan.counts, step, [rate * factor for rate in self.base_lrs], idle)

    def compute(self, inputs: StepInputs) -> None:
        """All that a step does on the device. It may be recorded: nothing here reads a number back."""
        for group, rate in zip(self.optimizer.param_groups, inputs.rates, strict=True):
            group["lr"] = rate
        self.guard.before_forward()
        self.update(inputs.step, self.world.sum(self.fitting.run(self.accumulate, inputs)))

    def accumulate(self, inputs: StepInputs) -> Tensor:
        """Forward and backward over the micro-batches; returns this rank's part of the step's loss."""
        step_loss, terms = torch.zeros((), device=self.world.device), []
        passes = len(inputs.micro_batches) + inputs.idle_passes
        with self.precision.one_cast_per_weight(self.world.device, 1 if self.strategy.shards else passes):
            for index, batch in enumerate(inputs.micro_batches):
                if not inputs.recorded:
                    seed_generators(self.world.device, self.seed, inputs.step, self.world.data_rank, index)
                with no_sync(self.replica, when=index < passes - 1):
                    with self.precision.autocast(self.world.device):
                        output = self.replica(to_device(batch, self.world.device))
                        loss = output.objective(inputs.counts, self.world.data_size)
                    self.scaler.scale(loss).backward()
                step_loss += loss.detach()
                terms.append(output.detached())
            for index in range(passes - inputs.idle_passes, passes):
                with no_sync(self.replica, when=index < passes - 1):
                    self.idle_pass(inputs)
        for micro_batch in terms:
            self.loss_meter.add(micro_batch)
        return step_loss

    def undo_passes(self) -> None:
        """What the passes of a step have changed is again as it was before them."""
        self.optimizer.zero_grad()
        self.guard.put_back()
        self.prefetch.forget()  # they have another size now
        self.evaluator.batch_size = self.loader.micro_batch_size or self.evaluator.batch_size

    def idle_pass(self, inputs: StepInputs) -> None:
        """A pass that takes part in the collectives of other ranks' passes, and adds nothing to gradients and state."""
        batch = {name: value for name, value in inputs.micro_batches[0].items() if name != "streams"}  # they'd move on
        self.module.eval()
        with self.precision.autocast(self.world.device):
            output = self.replica(to_device(batch, self.world.device))
            loss = 0.0 * output.objective(inputs.counts, self.world.data_size)
        self.scaler.scale(loss).backward()
        self.module.train()

    def update(self, step: int | Tensor, step_loss: Tensor) -> None:
        """Clips and applies the gradients, unless they are not finite: then the device skips the update."""
        overflow = unscale(self.scaler, self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.grad_norm = global_norm(gradients)
        grad_scale = self.one
        if self.clip_norm is not None:
            grad_scale = torch.clamp((self.grad_norm / self.clip_norm).float(), min=1.0)
        found_inf = self.guard.found_inf(step, step_loss, self.grad_norm, overflow)
        with _RecordFunctionFast(OPTIMIZER_SPAN):  # 0.4 µs where nothing profiles; `record_function` takes 9
            self.optimizer.step(found_inf, grad_scale)
        self.optimizer.zero_grad()
        self.scaler.update()
        if self.average is not None:
            self.average.update(step, found_inf)
        self.updates += 1 - found_inf.long()

    def check_finite(self, wait: bool = False) -> None:
        """Ends the run when the device has flagged a step; the weights are still those before it."""
        bad_step = self.guard.first_bad_step(wait)
        if bad_step is None:
            return
        self.state.step = bad_step
        self.state.cadences_done = list(CADENCES)
        checkpoint = self.write_checkpoint({})
        self.saver.wait()
        self.world.gather([0.0])  # a barrier: rank 0 would be killed as it writes, if another failed first
        raise nonfinite_error(bad_step, self.loader.ids(bad_step).tolist(), checkpoint)

    def finish_step(self) -> None:
        """Logs, evaluates and saves, in this order: what is due after this step and not done."""
        self.saver.raise_failure()
        if self.due():
            self.check_finite(wait=True)
        if self.due("log"):
            self.log()
        if self.due("evaluate"):
            self.evaluate()
        if self.due("save") and not (self.stop_reason and self.due("evaluate")):
            self.save()  # after a stop inside an evaluation `fit` saves, and a resumed run evaluates again

    def due(self, *names: str) -> bool:
        """Whether one of these (or, of none, of all three cadences) is due after this step and not done."""
        return any(self.cadences.due(name, self.decision_seconds, self.finished) for name in names or CADENCES)

    def done(self, name: str) -> None:
        """Records that this cadence is done for this step."""
        self.cadences.done(name, self.decision_seconds)

    def log(self) -> None:
        """One row: the mean loss since the last row, rates and speed. Waits for the device."""
        row = self.row() | self.loss_meter.read()
        row |= {
            "optim/learning_rate": self.base_lrs[0] * self.schedule(self.state.step - 1),
            "optim/grad_norm": float(self.grad_norm),
            "optim/updates": int(self.updates),
            "system/memory_bytes": int(self.world.gather([memory_bytes(self.world.device)]).max()),
        }
        self.tracker.scalars(row | self.speed_meter.read(self.state.step, self.state.train_seconds) | self.cores.row())
        if sentence := self.cores.warning():
            self.tracker.note(sentence, True)
        self.done("log")

    def row(self) -> Row:
        """The columns that every row has."""
        work = self.throughput.work(self.state.step)
        return {"step": self.state.step, **work, "time_seconds": self.state.train_seconds}

    def evaluate(self) -> None:
        """The validation split and a sample of the training split; the best so far is saved. Not done if stopped."""
        if not self.evaluator.has("val"):
            return self.done("evaluate")
        columns: Row = {}
        with self.evaluated_weights():
            for split in (TRAIN_SAMPLE, "val"):
                if self.evaluator.has(split):
                    evaluation = self.evaluator.evaluate(split, stop=self.agree_to_stop)
                    if evaluation is None:
                        return None
                    columns = {f"{split}/{name}": value for name, value in evaluation.metrics.items()} | columns
            assert evaluation is not None  # of the validation split, which comes last
            self.tracker.scalars(self.row() | columns)
            self.show_samples(evaluation, self.state.step)
        self.done("evaluate")
        if self.selection.observe(evaluation.metrics, self.state.step):
            self.best_metrics = evaluation.metrics
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

    def save(self) -> None:
        """Writes a checkpoint of this step, unless there is one."""
        if "save" not in self.state.cadences_done:
            self.done("save")
        loss_sums = self.loss_meter.pooled()
        self.loss_meter.set(loss_sums)  # as a resumed run has them: all on rank 0
        self.write_checkpoint(loss_sums)

    def write_checkpoint(self, loss_sums: dict[str, float]) -> Path:
        """The part of saving that leaves the loss meter alone; returns where the checkpoint will be."""
        self.state.updates = int(self.updates)
        self.state.loss_sums = loss_sums
        if self.module.recurrent_state is not None:
            gather_state(self.module.recurrent_state, self.world)
        self.saver.save(self.state.step)
        return self.checkpoints.path_of(self.state.step)

    def mark_best(self) -> None:
        """Points `best` at the best evaluation's checkpoint; again on resume, as a kill may have come before this."""
        if self.state.best_step is not None and self.world.is_main:
            self.saver.mark_best(self.state.best_step)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Counts what runs within as time of training."""
        started = time.perf_counter()
        yield
        self.state.train_seconds += time.perf_counter() - started
