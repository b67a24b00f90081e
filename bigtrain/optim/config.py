"""Settings of every optimizer and learning-rate schedule; torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import OptimizerConfig, SchedulerConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.registry import OPTIMIZERS, SCHEDULERS


@dataclass
class CommonConfig(OptimizerConfig):
    """What every optimizer has. Norms, biases and other vectors are never decayed."""

    learning_rate: float = setting(1e-3, "Peak learning rate.", at_least=0)
    weight_decay: float = setting(0.0, "Decoupled decay, times the learning rate, per step.", at_least=0)
    l1: float = setting(
        0.0,
        "What is decayed also moves towards zero by this times the learning rate, per step, and stays there: "
        "the proximal step of an L1 penalty, which makes weights sparse.",
        at_least=0,
    )
    no_decay: list[str] = setting([], "Modules or patterns of further parameters not decayed: ['*embedding*'].")
    freeze: list[str] = setting(
        [],
        "Modules or patterns of parameters that keep their values; [backbone] is a linear probe. "
        "Dropout still acts, and running statistics (batch norm) are no parameters and still move.",
    )
    learning_rate_scale: dict[str, float] = setting(
        {},
        "Factors of the learning rate by module or pattern: {heads: 10, '*.norm.*': 0.5}. "
        "What several match takes their product.",
    )
    layer_decay: float = setting(
        1.0,
        "Factor of the learning rate per layer from the top (arXiv:2003.10555): 1 for heads and what follows the last "
        "block, this for that block, and so on down to the embeddings.",
        above=0,
        at_most=1,
    )

    def problems(self) -> list[Invalid]:
        found = [
            Invalid(
                "learning_rate_scale",
                f"has {pattern}: {scale:g}; it must be above 0 and finite "
                f"(optimizer.freeze=[{pattern}] keeps values as they are)",
            )
            for pattern, scale in self.learning_rate_scale.items()
            if not 0 < scale < math.inf
        ]
        if self.no_decay and self.weight_decay == self.l1 == 0:
            sentence = f"is {list(self.no_decay)} but weight_decay is 0, so nothing is decayed; leave it out"
            found.append(Invalid("no_decay", sentence))
        return found


@dataclass
class AdamWConfig(CommonConfig):
    """AdamW (arXiv:1711.05101), fused."""

    learning_rate: float = setting(3e-3, "Peak learning rate; wide models want less (gpt2: 6e-4).", at_least=0)
    weight_decay: float = setting(0.1, "Decoupled decay, times the learning rate, per step.", at_least=0)
    betas: list[float] = setting([0.9, 0.95], "Decay of the running mean and of the running square, each in [0, 1).")
    epsilon: float = setting(1e-8, "Added to the root of the running square.", above=0)

    def problems(self) -> list[Invalid]:
        return super().problems() + _beta_problems(self.betas)


@dataclass
class AdamConfig(CommonConfig):
    """Adam (arXiv:1412.6980), fused; decay goes through the gradient, as L2. AdamW is usually the better choice."""

    learning_rate: float = setting(1e-3, "Peak learning rate.", at_least=0)
    weight_decay: float = setting(0.0, "L2 decay added to the gradient.", at_least=0)
    betas: list[float] = setting([0.9, 0.999], "Decay of the running mean and of the running square, each in [0, 1).")
    epsilon: float = setting(1e-8, "Added to the root of the running square.", above=0)

    def problems(self) -> list[Invalid]:
        return super().problems() + _beta_problems(self.betas)


@dataclass
class SGDConfig(CommonConfig):
    """Stochastic gradient descent with momentum, fused."""

    learning_rate: float = setting(0.05, "Peak learning rate.", at_least=0)
    weight_decay: float = setting(5e-4, "L2 decay added to the gradient.", at_least=0)
    momentum: float = setting(0.9, "Decay of the running gradient; 0: plain SGD, without state.", at_least=0, below=1)
    nesterov: bool = setting(True, "Nesterov's look-ahead; needs momentum.")

    def problems(self) -> list[Invalid]:
        return super().problems() + _nesterov_problems(self.nesterov, self.momentum)


@dataclass
class MuonConfig(CommonConfig):
    """Muon (Jordan 2024; arXiv:2502.16982) for hidden matrices; AdamW for embeddings, heads, norms and biases.

    An update's root mean square is that of a typical AdamW update, 0.2 times the rate, so AdamW's rates and decays
    carry over (arXiv:2502.16982, section 2.2).
    """

    learning_rate: float = setting(8e-3, "Peak learning rate; wide models want less.", at_least=0)
    adamw_learning_rate: float | None = setting(
        None, "Peak learning rate of what AdamW updates; default: learning_rate.", at_least=0
    )
    weight_decay: float = setting(0.1, "Decoupled decay, times the learning rate, per step.", at_least=0)
    momentum: float = setting(0.95, "Muon's: decay of the running gradient.", at_least=0, below=1)
    nesterov: bool = setting(True, "Muon's: Nesterov's look-ahead; needs momentum.")
    betas: list[float] = setting([0.9, 0.95], "AdamW's: decay of the running mean and of the running square.")
    epsilon: float = setting(1e-8, "AdamW's: added to the root of the running square.", above=0)

    def problems(self) -> list[Invalid]:
        found = super().problems() + _nesterov_problems(self.nesterov, self.momentum)
        return found + _beta_problems(self.betas)


@dataclass
class LionConfig(CommonConfig):
    """Lion (arXiv:2302.06675): the sign of a momentum. A rate 3-10 times lower than AdamW's, a decay as much higher."""

    learning_rate: float = setting(1e-3, "Peak learning rate: what every weight moves by.", at_least=0)
    weight_decay: float = setting(0.3, "Decoupled decay, times the learning rate, per step.", at_least=0)
    betas: list[float] = setting([0.9, 0.99], "Share of the running mean in the update, and its decay, each in [0, 1).")

    def problems(self) -> list[Invalid]:
        return super().problems() + _beta_problems(self.betas)


@dataclass
class AdafactorConfig(CommonConfig):
    """Adafactor (arXiv:1804.04235): no momentum, and a running square of one row and one column per matrix.

    The rate is used as it stands (no relative steps, no multiplication with the weights' size).
    """

    learning_rate: float = setting(3e-3, "Peak learning rate: about the root mean square of an update.", at_least=0)
    weight_decay: float = setting(0.1, "Decoupled decay, times the learning rate, per step.", at_least=0)
    clip_threshold: float = setting(1.0, "Updates of a larger root mean square are scaled down to it.", above=0)
    decay_exponent: float = setting(
        -0.8, "A gradient's share in the running square is the step number to this power.", at_least=-1, below=0
    )


def _beta_problems(betas: Sequence[float]) -> list[Invalid]:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        return [Invalid("betas", f"is {list(betas)}; it must be two numbers in [0, 1)")]
    return []


def _nesterov_problems(nesterov: bool, momentum: float) -> list[Invalid]:
    if nesterov and momentum == 0:
        return [Invalid("nesterov", "is true but momentum is 0; set optimizer.nesterov=false or give a momentum")]
    return []


@dataclass
class WarmupConfig(SchedulerConfig):
    """What most schedules have: a linear warm-up from 0."""

    warmup: str = setting("0step", "Length of the linear warm-up; a share of the training: 5%.", duration="part")


@dataclass
class ConstantConfig(WarmupConfig):
    """The peak rate throughout."""

    needs_total_steps: ClassVar[bool] = False


@dataclass
class LinearConfig(WarmupConfig):
    """In a straight line from the peak to final_fraction of it (by default to zero), over what warm-up leaves."""

    final_fraction: float = setting(0.0, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)


@dataclass
class CosineConfig(WarmupConfig):
    """From the peak down to final_fraction of it along half a cosine (arXiv:1608.03983)."""

    final_fraction: float = setting(0.1, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)


class DecayShape(Enum):
    """How a decay falls: in a straight line, or as one minus a root, which falls fast first (arXiv:2405.18392)."""

    linear = "linear"
    one_minus_sqrt = "one_minus_sqrt"


@dataclass
class WSDConfig(WarmupConfig):
    """Warm-up, stable, decay (arXiv:2405.18392): the peak rate, then down at the end of the training.

    A run that is made longer (`extend`) goes on from the stable part, as if it had been planned so.
    """

    decay_fraction: float = setting(
        0.2, "Length of the decay, as a fraction of the whole training.", above=0, at_most=1
    )
    decay_shape: DecayShape = setting(DecayShape.one_minus_sqrt, "How the decay falls.")
    final_fraction: float = setting(0.0, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)

    def stable_steps(self, warmup_steps: int, total_steps: int) -> int:
        """All before the decay: the last `decay_fraction`, or what warm-up leaves."""
        return max(warmup_steps, total_steps - math.ceil(self.decay_fraction * total_steps))


@dataclass
class OneCycleConfig(SchedulerConfig):
    """One cycle (arXiv:1708.07120): up to the peak along half a cosine, then down along another. Momentum stays."""

    warmup_fraction: float = setting(0.3, "Length of the rise, as a fraction of the whole training.", above=0, below=1)
    initial_fraction: float = setting(0.04, "First rate, as a fraction of the peak.", at_least=0, at_most=1)
    final_fraction: float = setting(4e-6, "Last rate, as a fraction of the peak.", at_least=0, at_most=1)


OPTIMIZERS.register("adamw", AdamWConfig, factory="bigtrain.optim.optimizers:adamw")
OPTIMIZERS.register("adam", AdamConfig, factory="bigtrain.optim.optimizers:adam")
OPTIMIZERS.register("sgd", SGDConfig, factory="bigtrain.optim.optimizers:sgd")
OPTIMIZERS.register("muon", MuonConfig, factory="bigtrain.optim.optimizers:muon")
OPTIMIZERS.register("lion", LionConfig, factory="bigtrain.optim.optimizers:lion")
OPTIMIZERS.register("adafactor", AdafactorConfig, factory="bigtrain.optim.optimizers:adafactor")
SCHEDULERS.register("constant", ConstantConfig, factory="bigtrain.optim.schedules:constant")
SCHEDULERS.register("linear", LinearConfig, factory="bigtrain.optim.schedules:linear")
SCHEDULERS.register("cosine", CosineConfig, factory="bigtrain.optim.schedules:cosine")
SCHEDULERS.register("wsd", WSDConfig, factory="bigtrain.optim.schedules:wsd")
SCHEDULERS.register("one_cycle", OneCycleConfig, factory="bigtrain.optim.schedules:one_cycle")
