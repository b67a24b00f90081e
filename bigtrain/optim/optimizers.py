"""Optimizers, as `factory(config, module) -> Optimizer`: which parameters are updated by which rule.

`module`'s parameters keep the order of `named_parameters`, apart by decay; `config.freeze` takes effect here at the
latest (`param_groups.freeze`). Groups without parameters are left out.
"""

from __future__ import annotations

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
from bigtrain.optim.param_groups import decayed_and_not, is_hidden_matrix

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
    decayed, spared = decayed_and_not(config, module)
    everything = decayed | spared
    hidden = {name for name, parameter in everything.items() if is_hidden_matrix(name, parameter, module)}
    if not hidden:
        raise ConfigError.of(
            "OPTIM-MUON",
            "optimizer=muon has no hidden matrix to train, so its learning rate would have no effect",
            cause="embeddings, heads, norms and biases are AdamW's; the rest is frozen or not there",
            fix="optimizer=adamw",
        )
    rule = MuonRule(config.momentum, config.nesterov, config.weight_decay)
    rest = _adam_rule(config, decoupled=True)
    adamw_rate = config.learning_rate if config.adamw_learning_rate is None else config.adamw_learning_rate
    groups = []
    for name, of_muon, learning_rate, group_rule in (
        ("muon", True, config.learning_rate, rule),
        ("adamw", False, adamw_rate, rest),
    ):
        for suffix, members in (("decay", decayed), ("no_decay", spared)):
            parameters = [parameter for key, parameter in members.items() if (key in hidden) == of_muon]
            groups.append(_group(f"{name}_{suffix}", parameters, learning_rate, group_rule))
    return _optimizer(groups)


def _adam_rule(config: AdamWConfig | AdamConfig | MuonConfig, *, decoupled: bool) -> AdamRule:
    return AdamRule(_pair(config.betas), config.epsilon, config.weight_decay, decoupled)


def _one_rule(config: CommonConfig, module: nn.Module, rule: Rule) -> Optimizer:
    decayed, spared = decayed_and_not(config, module)
    return _optimizer(
        [
            _group("decay", decayed.values(), config.learning_rate, rule),
            _group("no_decay", spared.values(), config.learning_rate, rule),
        ]
    )


def _group(name: str, parameters: Iterable[nn.Parameter], learning_rate: float, rule: Rule) -> dict[str, Any]:
    """A group; its rule decays nothing where the name says so."""
    if name.endswith("no_decay"):
        rule = replace(rule, weight_decay=0.0)
    return {"name": name, "params": list(parameters), "lr": learning_rate, "rule": rule}


def _optimizer(groups: list[dict[str, Any]]) -> Optimizer:
    return Optimizer([group for group in groups if group["params"]])


def _pair(betas: list[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
