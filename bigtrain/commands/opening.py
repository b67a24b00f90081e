"""What a training prints before it starts: the header, and warnings about settings that are probably a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bigtrain.build import Parts
from bigtrain.config.compose import Composed
from bigtrain.config.contradictions import find_contradictions, told_of
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import document_text
from bigtrain.data.base import DataModule
from bigtrain.data.order import MixedOrder
from bigtrain.storage.checkpoint import Checkpoint
from bigtrain.tracking.memory import memory_total_bytes
from bigtrain.tracking.tracker import Opening, RunFacts
from bigtrain.training.extension import rate_ahead
from bigtrain.training.machine import device_name
from bigtrain.training.precision import emulated_on_cpu
from bigtrain.training.trainer import Trainer


def opening(composed: Composed, run_dir: Path, data: DataModule) -> Opening:
    """What is known before the weights are drawn."""
    return Opening(_title(composed), run_dir, _details(data))


def facts(composed: Composed, run_dir: Path, parts: Parts, trainer: Trainer) -> RunFacts:
    """What is known when training starts."""
    spec, throughput, state, world = parts.data.spec, trainer.throughput, trainer.state, parts.world
    ranks = f"{world.size} ranks, each " if world.size > 1 else ""
    return RunFacts(
        title=_title(composed),
        run_dir=run_dir,
        config_text=document_text(composed.document),
        resolved={
            "device": ranks + device_name(world.device),
            **({"strategy": state.resolved["strategy"]} if world.size > 1 else {}),
            "precision": f"{trainer.precision.name} ({trainer.precision.reason})",
            **({"evaluation": sampling} if (sampling := trainer.evaluator.sampling()) else {}),
            "compile": state.resolved["compile"],
            **({"cuda graph": state.resolved["cuda_graph"]} if world.device.type == "cuda" else {}),
            **({"per pass": f"{size} samples (auto)"} if (size := state.resolved.get("micro_batch_size")) else {}),
            **({"recomputed": kept} if (kept := state.resolved.get("activation_checkpointing")) else {}),
        },
        parameters=sum(parameter.numel() for parameter in parts.network.parameters()),
        total_steps=trainer.length.steps,
        first_step=state.step,
        samples_per_step=throughput.samples_per_step,
        tokens_per_step=throughput.tokens_per_step,
        flops_per_sample=throughput.flops_per_sample,
        peak_flops=throughput.peak_flops,
        primary_metric=f"val/{trainer.selection.metric}",
        higher_is_better=trainer.selection.higher_is_better,
        optimal_loss=parts.optimal_loss,
        optimal_accuracy=spec.optimal_accuracy,
        memory_total_bytes=memory_total_bytes(world.device) if world.device.type == "cuda" or world.size == 1 else None,
        details=_details(parts.data) | _epochs_of_sources(parts, trainer),
    )


def advice(composed: Composed, parts: Parts, checkpoint: Checkpoint | None) -> Iterator[str]:
    """Warnings about settings that are valid but probably a mistake."""
    config, units = composed.config, parts.units
    yield from told_of(find_contradictions(config, units.length), composed.asked)
    if units.batch_size > units.epoch_samples:
        yield (
            f"a batch is {units.batch_size:g} samples, but the training split has only {units.epoch_samples:,}: a step "
            f"takes the same ones more than once; trainer.batch_size={units.epoch_samples} takes each once"
        )
    if parts.world.size == 1 and config.trainer.strategy in ("fsdp", "hsdp"):
        yield f"trainer.strategy={config.trainer.strategy} has no effect on one rank: it holds all there is"
    precision = config.trainer.precision.value
    if checkpoint is None and parts.world.device.type == "cpu" and emulated_on_cpu(precision):
        better = "trainer.precision=fp32" + ("" if emulated_on_cpu("bf16") else " or bf16")
        yield f"{precision} is many times slower than fp32 on this CPU, which has no arithmetic for it: take {better}"


def unmeasured(config: RunConfig) -> str:
    """A warning for a run that has nothing to be measured on."""
    makers = [f"data.{name}" for name in ("val_fraction", "val_path") if hasattr(config.data, name)]
    mend = f"; {' or '.join(makers)} gives one" if makers else ""
    return f"there is neither a val nor a test split: only the loss of training is measured{mend}"


def rate_of_extension(composed: Composed, trainer: Trainer) -> Iterator[str]:
    """A sentence on the coming learning rates, where the run has just been made longer and that changes them."""
    state, total, settings = trainer.state, trainer.length.steps, composed.config.scheduler
    if total is not None and settings.needs_total_steps and state.lengths and state.lengths[-1][0] == state.step:
        yield rate_ahead(trainer.schedule, composed.config.optimizer.learning_rate, state.step, total)


def _title(composed: Composed) -> str:
    return f"{composed.choices['model']} on {composed.choices['data']}"


def _epochs_of_sources(parts: Parts, trainer: Trainer) -> dict[str, str]:
    """Of a mixture: each source's part of the training, and how often the whole run reads it."""
    order, sources = parts.loader.order, parts.data.dataset("train").sources
    if not isinstance(order, MixedOrder):
        return {}
    lines = []
    for source, share in zip(sources, order.counts / order.counts.sum(), strict=True):
        steps = trainer.length.steps
        epochs = f", {steps * order.batch_size * share / source.size:.3g} epochs" if steps else ""
        lines.append(f"{source.name} {share:.3g} ({source.size:,} windows{epochs})")
    return {"mixture": "; ".join(lines)}


def _details(data: DataModule) -> dict[str, str]:
    sizes = ", ".join(f"{split} {size:,}" for split, size in data.spec.sizes.items())
    unit = f"windows of {data.spec.sequence_length} tokens" if data.spec.kind == "text" else data.spec.kind
    return {"data": f"{sizes} {unit}"}
