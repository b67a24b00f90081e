"""What a plan varies: micro-batch, ranks, sharding, recomputation, number format. Read from the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bigtrain.config.run import Precision, RunConfig

FORWARD = 1 / 3  # of the arithmetic of a step
ATTENTION_AGAIN = 0.2  # of a step's time, as measured (docs/memory.md)


@dataclass(frozen=True)
class Setup:
    """How a step is spread over ranks and cut into micro-batches."""

    ranks: int
    batch: int  # samples per step, over all ranks
    micro_batch: int  # samples per rank and forward pass
    precision: str = "fp32"  # fp32, bf16, fp16, fp8
    strategy: str = "ddp"  # ddp, fsdp, hsdp; auto: which of the first two is not known yet
    checkpointing: str = "off"  # off, full, attention, or N: every N-th block
    ranks_per_node: int = 8

    @classmethod
    def of(cls, config: RunConfig, ranks: int, on_cpu: bool, ranks_per_node: int = 8) -> Setup:
        """As the settings say, with at least a sample for each rank; precision `auto` is bf16 on a GPU, else fp32."""
        settings = config.trainer
        precision = settings.precision.value
        if settings.precision in (Precision.auto, Precision.probe):
            precision = "fp32" if on_cpu else "bf16"
        batch = ranks * -(-settings.batch_size // ranks)
        micro_batch = min(settings.fixed_micro_batch_size or batch, batch // ranks)
        strategy = "ddp" if ranks == 1 or (on_cpu and settings.strategy == "auto") else settings.strategy
        if settings.tensor_parallel > 1 and ranks > 1:
            strategy = "fsdp"  # as it always is there
        checkpointing = settings.activation_checkpointing
        return cls(ranks, batch, micro_batch, precision, strategy, checkpointing, ranks_per_node)

    @property
    def share(self) -> int:
        """Samples of a step on each rank."""
        return self.batch // self.ranks

    @property
    def passes(self) -> int:
        """Micro-batches of a step on each rank."""
        return -(-self.share // self.micro_batch)

    @property
    def shards(self) -> int:
        """Ranks that hold one copy of the training state together."""
        if self.strategy == "hsdp":
            return min(self.ranks, self.ranks_per_node)
        return 1 if self.strategy == "ddp" else self.ranks

    @property
    def computed_again(self) -> float:
        """What activation checkpointing computes a second time, as a share of a step's arithmetic."""
        if self.checkpointing == "off":
            return 0.0
        if self.checkpointing == "attention":
            return ATTENTION_AGAIN
        return FORWARD / (1 if self.checkpointing == "full" else int(self.checkpointing))

    def changed(self, **changes: Any) -> Setup:
        """With other values."""
        return replace(self, **changes)
