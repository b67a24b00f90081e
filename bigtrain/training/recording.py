"""Recording a trainer's step as a CUDA graph, which then stands for every step of its shapes (`training/step.py`)."""

from __future__ import annotations

from bigtrain.training.plan import StepPlan
from bigtrain.training.step import RecordedStep
from bigtrain.training.trainer import Trainer


def record_steps(trainer: Trainer) -> None:
    """Records the trainer's step. On failure there is one warning, and steps run eagerly."""
    try:
        record(trainer, trainer.plan_step())
    except Exception as error:  # the errors of a recording have no common base class
        trainer.tracker.note(f"recording a CUDA graph failed ({type(error).__name__}); going on without", True)
        trainer.state.resolved["cuda_graph"] = "off (the recording failed)"


def record(trainer: Trainer, plan: StepPlan) -> None:
    """From now on steps of this shape are replayed as one CUDA graph. Raises whatever the recording fails with."""
    loss_sums = trainer.loss_meter.pooled()
    try:
        with trainer.guard.skipping_every_step():
            trainer.recorded = RecordedStep(trainer.compute, trainer.inputs(plan), trainer.world.device)
    finally:
        trainer.loss_meter.set(loss_sums)
        trainer.optimizer.zero_grad()
