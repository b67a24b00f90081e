"""State carried over the windows of a text: when it is, and how it is set aside and brought together.

A recurrent language model starts each window in the state in which it ended the one before, detached: the gradient
stays within a window (truncated back-propagation). Which window follows which is the order's business
(`data/order.py`). The state of every stream of the global batch lies in `TrainingModule.carried`, on every rank, which
keeps its own streams' part up to date; None where nothing is carried, which then costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.data.base import Dataset
from bigtrain.data.loader import evaluation_stream_count
from bigtrain.distributed.world import World
from bigtrain.tasks.base import TrainingModule


def carries_state(network: nn.Module, dataset: Dataset) -> bool:
    """Whether the state goes from one window to the next: the model is to, and the windows follow each other."""
    return bool(network.backbone.carries_state) and dataset.contiguous  # type: ignore[union-attr]


def state_of(network: nn.Module, streams: int) -> Tensor:
    """(streams, …): the state in which each begins."""
    return network.backbone.initial_state(streams, 0)  # type: ignore[no-any-return, operator, union-attr]


@contextmanager
def state_apart(module: TrainingModule, dataset: Dataset) -> Iterator[None]:
    """Meanwhile `module` carries the state of the streams that `dataset` is evaluated in; then it has its own back."""
    own, carries = module.carried, carries_state(module.network, dataset)
    module.carried = state_of(module.network, evaluation_stream_count(len(dataset))) if carries else None
    try:
        yield
    finally:
        module.carried = own


def bring_together(carried: Tensor, world: World) -> None:
    """Every rank's part of the state (streams, …), on every rank: as a checkpoint keeps it."""
    if world.size > 1:
        mine = np.array_split(np.arange(len(carried)), world.size)[world.rank]
        of_others = torch.ones(len(carried), dtype=torch.bool, device=carried.device)
        of_others[mine] = False
        carried[of_others] = 0
        world.sum(carried)
