"""The loss meter: training loss since the last logged row, summed on the device, read at log steps only."""

from __future__ import annotations

import torch
from torch import Tensor

from bigtrain.distributed.world import World
from bigtrain.tasks.base import LossTerm
from bigtrain.tracking.tracker import Row


class LossMeter:
    """Adds up `weight · sum` and `count` of each loss term in place, in float64, so that steps can be recorded."""

    def __init__(self, sums: dict[str, float], world: World):
        """`sums`: of all ranks together, as a checkpoint keeps them; `<term>.sum` and `<term>.count`."""
        self._world = world
        self._sums: dict[str, Tensor] = {}
        self.set(sums)

    def add(self, terms: dict[str, LossTerm]) -> None:
        """Adds a micro-batch; reads nothing back from the device."""
        for name, term in terms.items():
            self._sum(f"{name}.sum").add_(term.weight * term.sum.detach())
            self._sum(f"{name}.count").add_(term.count)

    def pooled(self) -> dict[str, float]:
        """The sums over all ranks, on every rank. Waits for the device."""
        sums = self._world.gather_shares([float(value) for value in self._sums.values()]).sum(axis=0)
        return dict(zip(self._sums, sums.tolist(), strict=True))

    def read(self) -> Row:
        """Columns of a row: the loss, and where it has several terms, each; means per target over all ranks since the
        last reading.
        """
        sums = self.pooled()
        for value in self._sums.values():
            value.zero_()
        names = [key.removesuffix(".sum") for key in sums if key.endswith(".sum")]
        means = {f"train/{name}": sums[f"{name}.sum"] / max(sums[f"{name}.count"], 1.0) for name in names}
        return {"train/loss": sum(means.values())} | (means if len(means) > 1 else {})

    def set(self, sums: dict[str, float]) -> None:
        """Takes the sums of all ranks, as in a resumed run: on rank 0; the others start from zero."""
        for name in {**self._sums, **sums}:  # in the same order on every rank, which `pooled` relies on
            self._sum(name).fill_(sums.get(name, 0.0) if self._world.is_main else 0.0)

    def _sum(self, name: str) -> Tensor:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), dtype=torch.float64, device=self._world.device)
        return self._sums[name]
