"""An exponential moving average (EMA) of the weights (Polyak & Juditsky 1992), evaluated instead of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bigtrain.distributed.shards import is_sharded, local, locals_of, with_values


class MovingAverage:
    """average += (1 - decay_t) · (weight - average), for every floating parameter and buffer of a network.

    decay_t = min(decay, (1 + t) / (10 + t)) at step t, so that early averages follow the weights (as TensorFlow's
    ExponentialMovingAverage does). `tensors` are the network's live ones, by name.
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float):
        self.decay = decay
        self._live = {name: value for name, value in tensors.items() if value.is_floating_point()}
        self.tensors = {name: with_values(value, local(value).detach().clone()) for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int | Tensor, found_inf: Tensor) -> None:
        """After the update of `step` (from 0, on the host or the device); where `found_inf` is 1 nothing changes."""
        if isinstance(step, Tensor):
            share = 1 - ((1 + step.double()) / (10 + step.double())).clamp(max=self.decay)
            weight = share.to(found_inf.dtype) * (1 - found_inf)
        else:
            weight = (1 - min(self.decay, (1 + step) / (10 + step))) * (1 - found_inf)
        averages, live = locals_of(self.tensors.values()), locals_of(self._live.values())
        torch._foreach_lerp_(averages, live, [weight.to(value.dtype) for value in averages])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the averages are the network's weights: storages are swapped, and back. Of sharded ones, which FSDP
        knows by their storage, the values are.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def adopt(self) -> None:
        """Copies the averages into the network."""
        for name, value in self._live.items():
            local(value).copy_(local(self.tensors[name]))

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self._live.items():
            average = self.tensors[name]
            if is_sharded(value):
                held = local(value).clone()
                local(value).copy_(local(average))
                local(average).copy_(held)
            else:
                value.data, average.data = average.data, value.data
