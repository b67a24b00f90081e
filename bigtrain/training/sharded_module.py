"""A module of which each rank has a part of every parameter, made without all of them standing anywhere."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bigtrain.config.run import RunConfig
from bigtrain.distributed.strategy import Strategy, materialise, shard
from bigtrain.distributed.world import World
from bigtrain.models.network import Network
from bigtrain.nn.init import draw_weights, forget_declared
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
    forget_declared(network)
    _freeze(config, network)  # FSDP remembers what is trained
    module = TrainingModule(network, task)
    shard(module, network.backbone.ordered_blocks(), world, strategy, precision.low_dtype)
    materialise(module, world.device)
    if draw:
        draw_weights(network, config.seed)
    return module


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
