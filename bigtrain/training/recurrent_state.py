"""Recurrent state over the windows of a text: when it is kept, and how it is set aside and gathered.

A recurrent language model starts each window in the state in which it ended the one before, detached: the gradient
stays within a window (truncated back-propagation through time, Williams & Peng 1990). Which window follows which is
decided in `data/order.py`. `TrainingModule.recurrent_state` has the state of every stream of the global batch, on every
rank; each rank updates the rows of its own streams. It is None where windows are independent.
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
    """Whether the state goes from one window to the next: the model is set to, and the windows follow each other."""
    return bool(network.backbone.carries_state) and dataset.contiguous  # type: ignore[union-attr]


def initial_state(network: nn.Module, streams: int) -> Tensor:
    """(streams, …): the state at the beginning of each stream."""
    return network.backbone.initial_state(streams, 0)  # type: ignore[no-any-return, operator, union-attr]


@contextmanager
def evaluation_state(module: TrainingModule, dataset: Dataset) -> Iterator[None]:
    """Within it `module` has the initial state of the streams in which `dataset` is evaluated; afterwards its own."""
    own, carries = module.recurrent_state, carries_state(module.network, dataset)
    module.recurrent_state = initial_state(module.network, evaluation_stream_count(len(dataset))) if carries else None
    try:
        yield
    finally:
        module.recurrent_state = own


def gather_state(state: Tensor, world: World) -> None:
    """Makes `state` (streams, …) on every rank that of all ranks, as a checkpoint keeps it; in place."""
    if world.size > 1:
        mine = np.array_split(np.arange(len(state)), world.size)[world.rank]
        of_others = torch.ones(len(state), dtype=torch.bool, device=state.device)
        of_others[mine] = False
        state[of_others] = 0
        world.sum(state)
