"""Activation checkpointing (arXiv:1604.06174): keep the input of a block, and compute the rest again when it is needed.

A block's activations are then in memory only while its own backward pass runs. The second pass draws the dropout masks
of the first and leaves buffers as they are, so gradients are those of a run without; it costs a forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bigtrain.nn.attention import Attention


def checkpointed_modules(blocks: Sequence[nn.Module], setting: str) -> list[nn.Module]:
    """The modules that compute their activations again under `trainer.activation_checkpointing`.

    full: every block; a number N: the first block and every N-th after it; attention: the attention of each block
    (queries, keys, values, attention weights), while the feed-forward keeps its activations; off: none.
    """
    if setting == "off":
        return []
    if setting == "attention":
        return [part for block in blocks for part in block.modules() if isinstance(part, Attention)]
    return list(blocks[:: 1 if setting == "full" else int(setting)])


def checkpoint_activations(modules: Sequence[nn.Module]) -> None:
    """Makes each module compute its activations again in the backward pass, in place.

    The class changes, not the module: parameters keep their names, `module.compile()` compiles what is inside the
    checkpoint, and modules of one class share what is compiled. Nothing changes in evaluation, or without gradients.
    """
    for module in modules:
        if not getattr(type(module), "checkpoints_activations", False):
            module.__class__ = _checkpointing(type(module))  # type: ignore[arg-type]


@functools.cache
def _checkpointing(cls: Any) -> type[nn.Module]:
    """A subclass of a module's class whose call, with its hooks, is checkpointed."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = cls.__call__.__get__(self)
        if not (self.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        if next(self.buffers(), None) is None:  # without `context_fn`, which the compiler can't trace
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        contexts = lambda: (nullcontext(), _without_updates(self))  # noqa: E731  of the first pass, and of the second
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    names = {"__call__": call, "__doc__": cls.__doc__, "__module__": cls.__module__, "checkpoints_activations": True}
    return type(cls.__name__, (cls,), names)  # the name in messages and profiles stays


@contextmanager
def _without_updates(module: nn.Module) -> Iterator[None]:
    """Within it, a pass writes to copies of the module's buffers: batch norm would count its batch twice."""
    owners = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    owners = [owner for owner in owners if owner[2] is not None]
    for part, name, buffer in owners:
        part._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for part, name, buffer in owners:
            part._buffers[name] = buffer
