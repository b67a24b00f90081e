"""A module of which each rank has a part of every parameter, made without all of them standing anywhere."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bigtrain.config.run import RunConfig, TrainerConfig
from bigtrain.distributed.strategy import Strategy, device_mesh, materialise, shard
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.network import Network
from bigtrain.nn.init import draw_weights, forget_declared
from bigtrain.optim.base import Optimizer
from bigtrain.optim.config import CommonConfig
from bigtrain.optim.param_groups import freeze
from bigtrain.tasks.base import Task, TrainingModule
from bigtrain.training.machine import precision_of_shards
from bigtrain.training.precision import ResolvedPrecision

_FP32 = 4  # bytes
_TRAINED = 4 * _FP32  # weight, gradient and AdamW's two means; other optimizers have less


def sharded_module(
    network: Network,
    task: Task,
    config: RunConfig,
    world: World,
    strategy: Strategy,
    resolved: Mapping[str, str],
    *,
    draw: bool,
) -> TrainingModule:
    """Network and task as one module that is split over the ranks; `network` is undrawn, on the CPU.

    Each rank draws the blocks of numbers that its parts touch: the same numbers as those of one process, to the bit.
    `resolved`: what `auto` became in a run that is resumed.
    """
    precision = ResolvedPrecision(precision_of_shards(config.trainer, world.device, resolved), "")
    if world.tensor_parallel > 1:
        _refuse_with_tensor_parallelism(config.trainer, precision.name)
    forget_declared(network)
    _freeze(config, network)  # FSDP remembers what is trained
    module = TrainingModule(network, task)
    blocks, mesh = network.backbone.ordered_blocks(), device_mesh(world, strategy)
    if world.tensor_parallel > 1:
        from bigtrain.nn.tensor_parallel import split_blocks  # DTensor, which takes a second to import

        split_blocks(blocks, mesh["tensor"])
        mesh = mesh["shard"]
    shard(module, blocks, mesh, precision.low_dtype)
    materialise(module, world.device)
    if draw:
        draw_weights(network, config.seed)
    return module


def require_elementwise(optimizer: Optimizer, world: World) -> None:
    """Raises ConfigError under tensor parallelism for an optimizer that needs whole matrices, or sums over them."""
    rules = [group.get("rule") for group in optimizer.param_groups]
    if world.tensor_parallel > 1 and not all(rule is not None and rule.elementwise for rule in rules):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.tensor_parallel is {world.tensor_parallel}, but this optimizer needs whole matrices",
            cause="groups of ranks hold parts of their rows and columns",
            fix="optimizer=adamw (or adam, lion, sgd), or trainer.tensor_parallel=1",
        )


def _refuse_with_tensor_parallelism(settings: TrainerConfig, precision: str) -> None:
    """fp16: torch's loss scaling looks for overflows on the ranks that share the first gradient, not on all of them."""
    refused = {"compile": ("true", "whole"), "precision": ("fp8", "fp16")}
    given = {"compile": settings.compile, "precision": precision}
    for key in (key for key, value in given.items() if value in refused[key]):
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.{key} is {given[key]}, but trainer.tensor_parallel is {settings.tensor_parallel}",
            cause="it does not know layers that several ranks compute together",
            fix={"compile": "trainer.compile=auto", "precision": "trainer.precision=bf16 or fp32"}[key]
            + ", or trainer.tensor_parallel=1",
        )


def bytes_without_shards(network: Network, config: RunConfig) -> int:
    """What each rank would hold under DDP with AdamW: weights, gradients, optimizer state and moving average."""
    _freeze(config, network)
    average = _FP32 if config.trainer.ema_decay is not None else 0
    return sum(
        parameter.numel() * ((_TRAINED if parameter.requires_grad else _FP32) + average)
        for parameter in network.parameters()
    )


def _freeze(config: RunConfig, network: nn.Module) -> None:
    """What making the optimizer does later."""
    if isinstance(config.optimizer, CommonConfig):
        freeze(config.optimizer, network)
