"""Optimizers, as `factory(config, module) -> Optimizer`: which parameters are updated by which rule.

A group has one rule, one rate, and decays or not; `module`'s parameters keep the order of `named_parameters` in it.
`config.freeze` takes effect here at the latest (`param_groups.freeze`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from bigtrain.errors import ConfigError
from bigtrain.nn.backbone import Backbone
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
from bigtrain.optim.param_groups import Member, grouped, members

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
    """Muon for `Backbone.hidden_matrices`, AdamW for everything else.

    Raises ConfigError where no hidden matrix is left to train.
    """
    everything = members(config, module)
    backbone: Backbone = module.backbone  # type: ignore[assignment]
    hidden = {id(parameter) for parameter in backbone.hidden_matrices()}
    matrices = [member for member in everything if id(member.parameter) in hidden]
    if not matrices:
        raise ConfigError.of(
            "OPTIM-MUON",
            "optimizer=muon has no hidden matrix to train, so its learning rate would have no effect",
            cause="embeddings, heads, norms and biases are AdamW's; the rest is frozen or not there",
            fix="optimizer=adamw",
        )
    rest = [member for member in everything if id(member.parameter) not in hidden]
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
    still = replace(rule, weight_decay=0.0)
    groups = grouped(parts, learning_rate, l1, prefix)
    return [group | {"rule": rule if decays else still} for group, decays in groups]


def _pair(betas: list[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
