"""Non-finite losses: noticed on the device, masked at once, reported a step later, and never waited for.

A step whose loss or gradient norm is not finite changes nothing: a device flag makes the fused optimizer skip it,
and every step after it, until the host has read the flag. So the weights are those before the bad step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class NonFiniteGuard:
    """Watches one training module."""

    def __init__(self, module: nn.Module, device: torch.device):
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        # Running statistics (batch norm) change in the forward pass, before the loss is known: keep a copy.
        # Tables that are no state (positions) never change: copying them cost 0.1 ms a step.
        persistent = set(module.state_dict())
        self._buffers = [buffer for name, buffer in module.named_buffers() if name in persistent]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._pending: Tensor | None = None
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def before_forward(self) -> None:
        """Keeps the running statistics."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    def mask(self, step: int | Tensor, health: Tensor) -> Tensor:
        """A float scalar, 1 where the step must not be applied. `health`: loss + gradient norm, finite if good."""
        is_first = (self._first_bad_step < 0) & ~torch.isfinite(health)
        self._first_bad_step.copy_(torch.where(is_first, step, self._first_bad_step))
        bad = self._first_bad_step >= 0
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(bad, kept, buffer))
        return bad.float()

    @contextmanager
    def everything_masked(self) -> Iterator[None]:
        """Meanwhile no step changes anything, whatever its loss: for trying one out."""
        before = self._first_bad_step.clone()
        self._first_bad_step.zero_()
        try:
            yield
        finally:
            self._first_bad_step.copy_(before)

    def first_bad_step(self, wait: bool = False) -> int | None:
        """The first bad step, or None. On a GPU it tells of the step before the last, unless `wait`."""
        if self._copied is None or wait:
            return _none_if_negative(int(self._first_bad_step))
        known = None
        if self._pending is not None:
            self._copied.synchronize()
            known = _none_if_negative(int(self._pending))
        self._pending = self._first_bad_step.to("cpu", non_blocking=True)
        self._copied.record()
        return known


def _none_if_negative(value: int) -> int | None:
    return None if value < 0 else value
