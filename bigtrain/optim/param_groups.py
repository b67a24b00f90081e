"""Which parameters are trained, which are decayed, and at which rate: by pattern and module.

Patterns are those of file names (`backbone.token_embedding*`, `*.norm.weight`), over the names that modules give their
parameters; a pattern that matches a module (`backbone`, `*.blocks.0`) means all parameters in it, and a tied weight has
all its names. Matrices and larger (weights, embeddings, kernels) are decayed; vectors and scalars (norm gains, biases)
never are, as in GPT-2's and Llama's recipes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from bigtrain.errors import ConfigError, nearest
from bigtrain.nn.backbone import Backbone
from bigtrain.optim.config import CommonConfig


@dataclass(frozen=True)
class Member:
    """A parameter that is trained; `scale` is its factor of the learning rate."""

    name: str
    parameter: nn.Parameter
    decays: bool
    scale: float


def freeze(config: CommonConfig, module: nn.Module) -> None:
    """Sets `requires_grad` to False for what `config.freeze` matches. Idempotent.

    Frozen weights have no gradient and no optimizer state, and are saved with the model. The running statistics of a
    frozen batch norm still change. Must run before anything that reads `requires_grad`, such as DDP.

    Raises ConfigError where a pattern matches nothing, or nothing is left to train.
    """
    for parameter in _matches("freeze", config.freeze, module):
        parameter.requires_grad_(False)
    if config.freeze and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError.of(
            "OPTIM-PATTERN",
            f"optimizer.freeze={config.freeze} freezes every parameter; nothing is left to train",
            fix="freeze less",
        )


def members(config: CommonConfig, module: nn.Module) -> list[Member]:
    """The trained parameters, after freezing, in the order of `named_parameters`.

    Raises ConfigError as `freeze` does, and where a pattern of `no_decay` or `learning_rate_scale` has no effect.
    """
    freeze(config, module)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    matrices = decays = {id(parameter) for parameter in trained.values() if parameter.ndim >= 2}
    for pattern in config.no_decay:
        decays = decays - _effect("no_decay", pattern, module, matrices, "frozen, or a vector, which is never decayed")
    scales = {id(parameter): 1.0 for parameter in trained.values()}
    if config.layer_decay != 1:
        below_top = layers_below_top(module.backbone)  # type: ignore[arg-type]
        scales |= {key: config.layer_decay**layers for key, layers in below_top.items() if key in scales}
    for pattern, scale in config.learning_rate_scale.items():
        for key in _effect("learning_rate_scale", pattern, module, set(scales), "frozen"):
            scales[key] *= scale
    return [Member(name, item, id(item) in decays, scales[id(item)]) for name, item in trained.items()]


def grouped(
    parts: Iterable[Member], learning_rate: float, l1: float, prefix: str = ""
) -> Iterator[tuple[dict[str, Any], bool]]:
    """A group per rate of what is decayed, and of what is not, each with whether it is. The rate nearest to
    `learning_rate`, which is logged, comes first.
    """
    together = defaultdict(list)
    for member in parts:
        together[member.scale, member.decays].append(member.parameter)
    for scale, decays in sorted(together, key=lambda kind: (abs(math.log(kind[0])), not kind[1])):
        name = f"{prefix}{'decay' if decays else 'no_decay'}{'' if scale == 1 else f'_x{scale:.4g}'}"
        parameters, rate = together[scale, decays], learning_rate * scale
        yield {"name": name, "params": parameters, "lr": rate, "l1": l1 if decays else 0.0}, decays


def layers_below_top(backbone: Backbone) -> dict[int, int]:
    """id of each parameter → 0 after the blocks, 1 in the last of them, and so on; one more before the first."""
    blocks = backbone.ordered_blocks()
    in_blocks = {id(item): layers for layers, block in enumerate(reversed(blocks), 1) for item in block.parameters()}
    below, outside = {}, len(blocks) + 1
    for parameter in backbone.parameters():  # in the order in which the backbone declares its parts
        below[id(parameter)] = in_blocks.get(id(parameter), outside)
        if id(parameter) in in_blocks:
            outside = 0
    return below


def _effect(setting: str, pattern: str, module: nn.Module, among: set[int], otherwise: str) -> set[int]:
    """The ids `among` these of what a pattern matches. Raises ConfigError where there is none."""
    found = {id(parameter) for parameter in _matches(setting, [pattern], module)} & among
    if not found:
        raise ConfigError.of(
            "OPTIM-PATTERN",
            f'optimizer.{setting} has "{pattern}", which has no effect',
            cause=f"all that it matches is {otherwise}",
            fix="leave it out",
        )
    return found


def _matches(setting: str, patterns: Iterable[str], module: nn.Module) -> list[nn.Parameter]:
    """The parameters that any of the patterns matches. Raises ConfigError for a pattern that matches none."""
    named = list(module.named_parameters(remove_duplicate=False))
    matched = []
    for pattern in patterns:
        found = [parameter for name, parameter in named if _means(pattern, name)]
        if not found:
            raise ConfigError.of(
                "OPTIM-PATTERN",
                f'optimizer.{setting} has "{pattern}", which matches no parameter',
                fix=_advice(pattern, [name for name, _ in named]),
            )
        matched += found
    return matched


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern matches a parameter, or a module around it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _advice(pattern: str, names: list[str]) -> str:
    """What may have been meant: that name somewhere below, or parameters with similar names."""
    if any(_means(f"*.{pattern}", name) for name in names):
        return f'did you mean "*.{pattern}" ?'
    similar = nearest(pattern.replace("*", ""), names)
    return ("near: " if similar else "parameters are, for instance: ") + ", ".join(similar or names[:3])
