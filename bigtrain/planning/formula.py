"""Parameters and certain memory by formula from the settings alone; and the refusal of what can't fit.

Certain is what every training holds at the end of a backward pass: weights, gradients, optimizer state, moving average.
Activations come on top, so what is refused here would have failed; what passes may still fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

from bigtrain.config.kinds import OptimizerConfig, TaskConfig
from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataSpec
from bigtrain.distributed.strategy import needs_shards
from bigtrain.errors import MachineError
from bigtrain.models.sizes import backbone_sizes, linear
from bigtrain.optim.config import AdamConfig, AdamWConfig, CommonConfig, LionConfig, MuonConfig, SGDConfig
from bigtrain.planning.changes import ACTIVATIONS, AVERAGE, GRADIENTS, OPTIMIZER, WEIGHTS, Situation, cheapest_changes
from bigtrain.planning.setup import Setup
from bigtrain.registry import OPTIMIZERS
from bigtrain.tasks.config import (
    ClassificationConfig,
    LanguageModelingConfig,
    MaskedLanguageModelingConfig,
    RegressionConfig,
    Seq2SeqTaskConfig,
)
from bigtrain.tracking.formatting import memory, scaled

_FP32 = 4  # bytes


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers in the parameters of a network, by part; a tied weight counts once, with the embedding."""

    embedding: int
    blocks: int
    head: int
    matrices: int = 0  # of `blocks`: in matrices that optimizer=muon takes
    num_blocks: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.head


def parameter_counts(config: RunConfig, spec: DataSpec) -> ParameterCounts | None:
    """Of the network for this data; None for a model or a task without a formula."""
    backbone = backbone_sizes(config.model, spec)
    heads = head_sizes(config.task, config, spec, 0 if backbone is None else backbone.hidden_size)
    if backbone is None or heads is None:
        return None
    head, reads_pooled = heads
    blocks = backbone.blocks + (backbone.pooler if reads_pooled else 0)
    matrices = backbone.matrices + (math.isqrt(backbone.pooler) ** 2 if reads_pooled else 0)
    return ParameterCounts(backbone.embedding, blocks, head, matrices, backbone.num_blocks)


@singledispatch
def head_sizes(task: TaskConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool] | None:
    """Numbers in the heads of a task on vectors of this width, and whether one reads the pooled vector; None where no
    formula is registered.
    """
    return None


@head_sizes.register
def _(task: LanguageModelingConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool]:
    if config.model.counts:
        return 3 * (width + 1), False
    rows = config.model.num_embeddings or spec.vocab_size or 1
    return (0 if config.model.tie_embeddings else rows * width), True


@head_sizes.register
def _(task: MaskedLanguageModelingConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool]:
    rows = config.model.num_embeddings or spec.num_embeddings or 1
    head = linear(width, width) + 2 * width + rows + (0 if config.model.tie_embeddings else rows * width)
    return head + (linear(width, 2) if task.next_sentence else 0), task.next_sentence


@head_sizes.register
def _(task: Seq2SeqTaskConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool]:
    return (0 if config.model.tie_embeddings else (spec.vocab_size or 1) * width), True


@head_sizes.register
def _(task: ClassificationConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool]:
    return linear(width, spec.num_classes or 1), True


@head_sizes.register
def _(task: RegressionConfig, config: RunConfig, spec: DataSpec, width: int) -> tuple[int, bool]:
    return linear(width, len(spec.values) or 1), True


def optimizer_bytes(optimizer: OptimizerConfig, counts: ParameterCounts) -> int:
    """Bytes of optimizer state; of an optimizer that is not known here, 0: at least. Step counts are left out."""
    if isinstance(optimizer, AdamWConfig | AdamConfig):
        return 2 * _FP32 * counts.total
    if isinstance(optimizer, LionConfig):
        return _FP32 * counts.total
    if isinstance(optimizer, SGDConfig):
        return _FP32 * counts.total if optimizer.momentum else 0
    if isinstance(optimizer, MuonConfig):
        rest = 2 * _FP32 * (counts.total - counts.matrices)
        return rest + (_FP32 * counts.matrices if optimizer.momentum else 0)
    return 0  # Adafactor's rows and columns are small beside its matrices


def certain_memory(config: RunConfig, spec: DataSpec) -> dict[str, int] | None:
    """Bytes by part that a whole copy of the training state takes at least; None without a formula.

    With `optimizer.freeze`, whose patterns need names, only the weights are certain.
    """
    counts = parameter_counts(config, spec)
    if counts is None:
        return None
    parts = {WEIGHTS: _FP32 * counts.total}
    if config.trainer.ema_decay:
        parts[AVERAGE] = _FP32 * counts.total
    optimizer = config.optimizer
    if not (isinstance(optimizer, CommonConfig) and optimizer.freeze):
        parts |= {GRADIENTS: _FP32 * counts.total, OPTIMIZER: optimizer_bytes(config.optimizer, counts)}
    return parts


def resolved(setup: Setup, state: Mapping[str, int], gpu_memory: int) -> Setup:
    """With what `trainer.strategy=auto` becomes on GPUs of this memory. `state`: bytes by part, of a whole copy."""
    if setup.strategy != "auto":
        return setup
    with_adamw = state[WEIGHTS] + 3 * state.get(GRADIENTS, 0) + state.get(AVERAGE, 0)
    return setup.changed(strategy="fsdp" if needs_shards(with_adamw, gpu_memory) else "ddp")


def smallest_spec(config: RunConfig) -> DataSpec:
    """What any data of this kind has at least, before it is read: a token, a pixel, a class."""
    return DataSpec(config.data.provides, "", {}, 1, input_shape=(1, 1, 1), num_classes=1, values=("",))


def untraced_situation(
    config: RunConfig, spec: DataSpec, setup: Setup, available: int, on_cpu: bool, used: int = 0
) -> Situation | None:
    """For `cheapest_changes` where no step can be traced, as in a process that has just run out of memory; None for a
    model without a formula. `used`: bytes that the rank held then; what is no training state counts as activations.
    """
    parts, counts = certain_memory(config, spec), parameter_counts(config, spec)
    if parts is None or counts is None:
        return None
    if used:
        parts[ACTIVATIONS] = max(0, used - sum(parts.values()) // setup.shards)
    return Situation(
        setup,
        parts,
        available,
        counts.num_blocks,
        in_blocks=counts.blocks / counts.total,
        has_gpu=not on_cpu,
        optimizer=OPTIMIZERS.entry_of(config.optimizer).name,
    )


def refuse_oversize(
    config: RunConfig, spec: DataSpec, ranks: int, ranks_per_node: int, total_bytes: int, device: str
) -> None:
    """Raises MachineError where what is certain is more than there is. `total_bytes` are those of the `device`, a GPU's
    name or "cpu", which the ranks of a node share.
    """
    on_cpu = device == "cpu"
    setup = Setup.of(config, ranks, on_cpu, ranks_per_node)
    sharing = ranks_per_node if on_cpu else 1
    situation = untraced_situation(config, spec, setup, total_bytes // sharing, on_cpu)
    if situation is None or config.trainer.allow_oversize:
        return
    needed = sum(situation.parts.values()) / setup.shards * sharing
    if needed <= total_bytes:
        return
    counts = int(situation.parts[WEIGHTS] / _FP32)
    ways = " or ".join(" ".join(change.overrides) for change in cheapest_changes(situation))
    said = ", ".join(f"{part} {memory(size)}" for part, size in situation.parts.items() if size)
    split = f", split over {setup.shards} ranks" if setup.shards > 1 else ""
    raise MachineError.of(
        "MEMORY-MODEL",
        f"the model has {scaled(counts)} parameters; training it takes {memory(needed)} before any activation, "
        f"and {'this machine' if on_cpu else f'the GPU ({device})'} has {memory(total_bytes)}",
        cause=said + split,
        fix=f"{ways or 'a smaller model, or more GPUs'}; bigtrain plan, with the same words, shows what fits where; "
        "trainer.allow_oversize=true tries all the same",
    )
