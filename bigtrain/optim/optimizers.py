"""Optimizers, as `factory(config, module) -> Optimizer`: which parameters are updated by which rule.

A group has one rule, one rate, and decays or not; `module`'s parameters keep the order of `named_parameters` in it.
`config.freeze` takes effect here at the latest (`param_groups.freeze`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from bigtrain.errors import ConfigError
from bigtrain.optim.adafactor import AdafactorRule
from bigtrain.optim.adam import AdamRule, SGDRule
from bigtrain.optim.base import Optimizer
from bigtrain.optim.config import (
    AdafactorConfig,
    AdamConfig,
    AdamWConfig,
    CommonConfig,
    LionConfig,
    MuonConfig,
    SGDConfig,
)
from bigtrain.optim.lion import LionRule
from bigtrain.optim.muon import MuonRule
from bigtrain.optim.param_groups import Member, is_hidden_matrix, members

Rule = AdamRule | SGDRule | LionRule | AdafactorRule | MuonRule


def adamw(config: AdamWConfig, module: nn.Module) -> Optimizer:
    """AdamW, arXiv:1711.05101."""
    return _one_rule(config, module, _adam_rule(config, decoupled=True))


def adam(config: AdamConfig, module: nn.Module) -> Optimizer:
    """Adam, arXiv:1412.6980."""
    return _one_rule(config, module, _adam_rule(config, decoupled=False))


def sgd(config: SGDConfig, module: nn.Module) -> Optimizer:
    """SGD with momentum; Nesterov as in Sutskever et al. 2013."""
    return _one_rule(config, module, SGDRule(config.momentum, config.nesterov, config.weight_decay))


def lion(config: LionConfig, module: nn.Module) -> Optimizer:
    """Lion, arXiv:2302.06675."""
    return _one_rule(config, module, LionRule(_pair(config.betas), config.weight_decay))


def adafactor(config: AdafactorConfig, module: nn.Module) -> Optimizer:
    """Adafactor, arXiv:1804.04235."""
    rule = AdafactorRule(config.decay_exponent, config.clip_threshold, config.weight_decay)
    return _one_rule(config, module, rule)


def muon(config: MuonConfig, module: nn.Module) -> Optimizer:
    """Muon for hidden matrices (`is_hidden_matrix`), AdamW for everything else.

    Raises ConfigError where no hidden matrix is left to train.
    """
    everything = members(config, module)
    hidden = {member.name for member in everything if is_hidden_matrix(member.name, member.parameter, module)}
    if not hidden:
        raise ConfigError.of(
            "OPTIM-MUON",
            "optimizer=muon has no hidden matrix to train, so its learning rate would have no effect",
            cause="embeddings, heads, norms and biases are AdamW's; the rest is frozen or not there",
            fix="optimizer=adamw",
        )
    matrices = [member for member in everything if member.name in hidden]
    rest = [member for member in everything if member.name not in hidden]
    rule = MuonRule(config.momentum, config.nesterov, config.weight_decay)
    adamw_rate = config.learning_rate if config.adamw_learning_rate is None else config.adamw_learning_rate
    return Optimizer(
        _groups("muon_", matrices, config.learning_rate, rule, config.l1)
        + _groups("adamw_", rest, adamw_rate, _adam_rule(config, decoupled=True), config.l1)
    )


def _adam_rule(config: AdamWConfig | AdamConfig | MuonConfig, *, decoupled: bool) -> AdamRule:
    return AdamRule(_pair(config.betas), config.epsilon, config.weight_decay, decoupled)


def _one_rule(config: CommonConfig, module: nn.Module, rule: Rule) -> Optimizer:
    return Optimizer(_groups("", members(config, module), config.learning_rate, rule, config.l1))


def _groups(prefix: str, parts: Iterable[Member], learning_rate: float, rule: Rule, l1: float) -> list[dict[str, Any]]:
    """A group per rate of what is decayed, and of what is not. The rate nearest to `learning_rate`, which is logged,
    comes first.
    """
    together = defaultdict(list)
    for member in parts:
        together[member.scale, member.decays].append(member.parameter)
    groups = []
    for scale, decays in sorted(together, key=lambda kind: (abs(math.log(kind[0])), not kind[1])):
        groups.append(
            {
                "name": f"{prefix}{'decay' if decays else 'no_decay'}{'' if scale == 1 else f'_x{scale:.4g}'}",
                "params": together[scale, decays],
                "lr": learning_rate * scale,
                "l1": l1 if decays else 0.0,
                "rule": rule if decays else replace(rule, weight_decay=0.0),
            }
        )
    return groups


def _pair(betas: list[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
