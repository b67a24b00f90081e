"""Which parameters are trained, which are decayed, and which are hidden matrices: by pattern and by module.

Patterns are those of file names (`backbone.token_embedding*`, `*.norm.weight`), over the names that modules give their
parameters; a tied weight has all its names. Matrices and larger (weights, embeddings, kernels) are decayed; vectors and
scalars (norm gains, biases) never are, as in GPT-2's and Llama's recipes.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from bigtrain.errors import ConfigError, nearest
from bigtrain.optim.config import CommonConfig

Named = dict[str, nn.Parameter]


def freeze(config: CommonConfig, module: nn.Module) -> None:
    """Takes what `config.freeze` matches out of training (`requires_grad` False). Again changes nothing.

    Frozen weights have no gradient and no optimizer state, and are saved with the model. A frozen batch norm's running
    statistics still move: they follow the data, not a gradient. Must come before anything that looks at
    `requires_grad`, such as DDP.

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


def decayed_and_not(config: CommonConfig, module: nn.Module) -> tuple[Named, Named]:
    """The trainable parameters by name, after freezing: those that decay, those that don't. Order of the module.

    Raises ConfigError as `freeze` does, and where a pattern of `config.no_decay` has no effect.
    """
    freeze(config, module)
    decays = {id(parameter) for parameter in module.parameters() if parameter.requires_grad and parameter.ndim >= 2}
    spared = set()
    for pattern in config.no_decay:
        found = {id(parameter) for parameter in _matches("no_decay", [pattern], module)}
        if not found & decays:
            raise ConfigError.of(
                "OPTIM-PATTERN",
                f'optimizer.no_decay has "{pattern}", which has no effect: all it matches is frozen, or a vector',
                cause="norms, biases and other vectors are never decayed",
                fix="leave it out",
            )
        spared |= found
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    decayed = {name: parameter for name, parameter in trainable.items() if id(parameter) in decays - spared}
    return decayed, {name: parameter for name, parameter in trainable.items() if name not in decayed}


def is_hidden_matrix(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Whether a parameter maps hidden features to hidden features: a weight of the backbone, embeddings left out.

    Convolution kernels count as matrices (out, in · height · width). Heads (`heads.*`), vectors, and bare parameters
    that are not called weights (positions, class tokens) do not count.
    """
    owner_name, _, last = name.rpartition(".")
    embeds = isinstance(module.get_submodule(owner_name), nn.Embedding)
    return parameter.ndim >= 2 and last.startswith("weight") and not embeds and not name.startswith("heads.")


def _matches(setting: str, patterns: Iterable[str], module: nn.Module) -> list[nn.Parameter]:
    """The parameters that any of the patterns matches. Raises ConfigError for a pattern that matches none."""
    named = list(module.named_parameters(remove_duplicate=False))
    matched = []
    for pattern in patterns:
        found = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
        if not found:
            raise ConfigError.of(
                "OPTIM-PATTERN",
                f'optimizer.{setting} has "{pattern}", which matches no parameter',
                fix=_advice(pattern, [name for name, _ in named]),
            )
        matched += found
    return matched


def _advice(pattern: str, names: list[str]) -> str:
    """What may have been meant: the module of that name, or parameters with similar names."""
    for wider in (f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*"):
        if any(fnmatchcase(name, wider) for name in names):
            return f'did you mean "{wider}" ?'
    similar = nearest(pattern.replace("*", ""), names)
    return ("near: " if similar else "parameters are, for instance: ") + ", ".join(similar or names[:3])
