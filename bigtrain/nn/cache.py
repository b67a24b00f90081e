"""The keys and values that a causal transformer keeps while it generates (KV cache), for one layer and for all.

Shapes: L layers, B rows, T new positions, G key/value heads, M positions there is room for, K head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LayerCache(NamedTuple):
    """One layer's keys and values (B, G, M, K), allocated once and written in place; `start` positions are filled."""

    keys: Tensor
    values: Tensor
    start: int

    def extend(self, keys_BGTK: Tensor, values_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Writes T more positions; returns all that are filled, (B, G, start+T, K) each."""
        end = self.start + keys_BGTK.shape[2]
        self.keys[:, :, self.start : end] = keys_BGTK
        self.values[:, :, self.start : end] = values_BGTK
        return self.keys[:, :, :end], self.values[:, :, :end]


class KeyValueCache(NamedTuple):
    """Keys and values of all layers, (L, B, G, M, K) each, of which `length` positions are filled.

    The tensors are written in place and shared by successive states; only `length` differs.
    """

    keys: Tensor
    values: Tensor
    length: int

    @classmethod
    def empty(cls, *shape: int, dtype: torch.dtype, device: torch.device) -> KeyValueCache:
        """A cache of `shape` (L, B, G, M, K) with no position filled."""
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values, length=0)

    @property
    def room(self) -> int:
        """M."""
        return self.keys.shape[3]

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def extended(self, by: int) -> KeyValueCache:
        """The cache after every layer has written `by` more positions."""
        return self._replace(length=self.length + by)

    def select(self, rows: Tensor) -> KeyValueCache:
        """A copy that holds these rows (int64 indices, repeated or left out at will); only what is filled is copied."""

        def selected(cache_LBGMK: Tensor) -> Tensor:
            layers, _, *shape = cache_LBGMK.shape
            copy = cache_LBGMK.new_zeros((layers, rows.shape[0], *shape))
            copy[:, :, :, : self.length] = cache_LBGMK[:, :, :, : self.length].index_select(1, rows)
            return copy

        return KeyValueCache(selected(self.keys), selected(self.values), self.length)
