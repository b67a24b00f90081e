"""Non-finite losses: detected on the device, skipped at once, read by the host a step later, without waiting.

A step whose loss or gradient norm is not finite changes nothing: `found_inf` makes the fused optimizer skip it, and
every step after it, until the host has read the flag. So the weights are those before the bad step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bigtrain.errors import NumericsError
from bigtrain.training.precision import Overflow


class NonFiniteGuard:
    """Decides which steps of one training module are skipped, and remembers the first bad one."""

    def __init__(self, module: nn.Module, device: torch.device):
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        # Running statistics (batch norm) change in the forward pass, before the loss is known: keep a copy.
        # Tables that are no state (positions) never change: copying them cost 0.1 ms a step.
        persistent = set(module.state_dict())
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for name, buffer in module.named_buffers():
            if name in persistent and buffer.numel():
                by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = list(by_dtype.values())
        # All of a dtype in one: 53 batch norms would be 318 launches, and are 8.
        self._kept = [_joined(buffers) for buffers in self._buffers]
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._on_host = torch.full((), -1, dtype=torch.int64, pin_memory=self._copied is not None)

    def before_forward(self) -> None:
        """Keeps the running statistics."""
        for buffers, kept in zip(self._buffers, self._kept, strict=True):
            torch.cat([buffer.flatten() for buffer in buffers], out=kept)

    def put_back(self) -> None:
        """Puts the running statistics back to those of the last `before_forward`."""
        for buffers, kept in zip(self._buffers, self._kept, strict=True):
            parts = kept.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view(x.shape) for part, x in zip(parts, buffers, strict=True)])

    def found_inf(
        self, step: int | Tensor, loss: Tensor, grad_norm: Tensor, overflow: Overflow | None = None
    ) -> Tensor:
        """fp32 scalar on the device: 1 where this step must be skipped, else 0; running statistics are then put back.

        Under fp16 an infinite gradient is a loss scale that was too high: that step alone is skipped, and the scale
        halved. At a scale of 1 or less the scale is not the reason any more, and the step is a bad one.
        """
        health = loss + grad_norm  # finite if both are
        if overflow is not None:
            health = torch.where((overflow.found_inf > 0) & (overflow.loss_scale > 1), loss, health)
        is_first = (self._first_bad_step < 0) & ~torch.isfinite(health)
        self._first_bad_step.copy_(torch.where(is_first, step, self._first_bad_step))
        bad = self._first_bad_step >= 0
        for buffers, kept in zip(self._buffers, self._kept, strict=True):
            chosen = torch.where(bad, kept, _joined(buffers)).split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view(x.shape) for part, x in zip(chosen, buffers, strict=True)])
        return bad.float() if overflow is None else ((bad.float() + overflow.found_inf) > 0).float()

    @contextmanager
    def skipping_every_step(self) -> Iterator[None]:
        """Within it no step changes anything, whatever its loss: to run one on trial."""
        before = self._first_bad_step.clone()
        self._first_bad_step.zero_()
        try:
            yield
        finally:
            self._first_bad_step.copy_(before)

    def first_bad_step(self, wait: bool = False) -> int | None:
        """The number of the first bad step, or None. On a GPU as of the step before the last, unless `wait`."""
        if self._copied is None or wait:
            return _none_if_negative(int(self._first_bad_step))
        self._copied.synchronize()  # the copy of a step ago: the device has the next step to work on meanwhile
        known = int(self._on_host)
        self._on_host.copy_(self._first_bad_step, non_blocking=True)
        self._copied.record()
        return _none_if_negative(known)


def _joined(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.flatten() for buffer in buffers])


def _none_if_negative(value: int) -> int | None:
    return None if value < 0 else value


def nonfinite_error(step: int, sample_ids: list[int], checkpoint: Path) -> NumericsError:
    """For the user: which step, of which training samples, and where the weights before it lie."""
    shown = ", ".join(map(str, sample_ids[:64])) + (f", … ({len(sample_ids)} in all)" if len(sample_ids) > 64 else "")
    return NumericsError.of(
        "LOSS-NONFINITE",
        f"the loss or its gradient is not finite at step {step}",
        cause=f"training samples {shown}",
        fix=f"the weights before that step are in {checkpoint}; try a lower optimizer.learning_rate, "
        "trainer.clip_norm, or trainer.precision=fp32, and look at those samples (debug=nan finds the module)",
    )
