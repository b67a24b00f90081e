"""Settings of every optimizer and learning-rate schedule; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import OptimizerConfig, SchedulerConfig
from bigtrain.config.settings import setting
from bigtrain.registry import OPTIMIZERS, SCHEDULERS


@dataclass
class AdamWConfig(OptimizerConfig):
    """AdamW (arXiv:1711.05101), fused. Norms and biases are never decayed."""

    learning_rate: float = setting(3e-3, "Peak learning rate; wide models want less (gpt2: 6e-4).", at_least=0)
    weight_decay: float = setting(0.1, "Decoupled decay, times the learning rate, per step.", at_least=0)
    betas: list[float] = setting([0.9, 0.95], "Decay of the running mean and of the running square, each in [0, 1).")
    epsilon: float = setting(1e-8, "Added to the root of the running square.", above=0)

    def problems(self) -> list[str]:
        """Rules across fields."""
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            return [f"betas is {list(self.betas)}; it must be two numbers in [0, 1)"]
        return []


@dataclass
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum, fused. Norms and biases are never decayed."""

    learning_rate: float = setting(0.05, "Peak learning rate.", at_least=0)
    weight_decay: float = setting(5e-4, "L2 decay added to the gradient.", at_least=0)
    momentum: float = setting(0.9, "Decay of the running gradient.", at_least=0, below=1)
    nesterov: bool = setting(True, "Nesterov's look-ahead; needs momentum.")

    def problems(self) -> list[str]:
        """Rules across fields."""
        if self.nesterov and self.momentum == 0:
            return ["nesterov is true but momentum is 0; set optimizer.nesterov=false or give a momentum"]
        return []


@dataclass
class WarmupConfig(SchedulerConfig):
    """What every schedule has: a linear warm-up from 0."""

    warmup: str = setting("0step", "Length of the linear warm-up.", duration=True)


@dataclass
class ConstantConfig(WarmupConfig):
    """The peak rate throughout."""

    needs_total_steps: ClassVar[bool] = False


@dataclass
class LinearConfig(WarmupConfig):
    """From the peak down to final_fraction of it, in a straight line over what warm-up leaves."""

    final_fraction: float = setting(0.0, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)


@dataclass
class CosineConfig(WarmupConfig):
    """From the peak down to final_fraction of it along half a cosine (arXiv:1608.03983)."""

    final_fraction: float = setting(0.1, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)


OPTIMIZERS.register("adamw", AdamWConfig, factory="bigtrain.optim.optimizers:adamw")
OPTIMIZERS.register("sgd", SGDConfig, factory="bigtrain.optim.optimizers:sgd")
SCHEDULERS.register("constant", ConstantConfig, factory="bigtrain.optim.schedules:constant")
SCHEDULERS.register("linear", LinearConfig, factory="bigtrain.optim.schedules:linear")
SCHEDULERS.register("cosine", CosineConfig, factory="bigtrain.optim.schedules:cosine")
