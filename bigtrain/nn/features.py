"""The arguments of a backbone beside its inputs, what it returns to its heads, and pooling over a sequence.

`backbone(inputs, state=None, **context)`: the context holds those of these entries that the batch has, and a backbone
declares as keyword arguments the ones that its kind of sample can have:

    lengths          (B,) int64   tokens in each row of `inputs`; the positions after them are padding (0)
    segments         (B, T) int64 which of two texts each token belongs to, 0 or 1
    source           (B, S) int64 the encoder's input; `inputs` are then the decoder's
    source_lengths   (B,) int64   tokens in each row of `source`
    documents        (B, T) int64 which document of its row each token belongs to, ascending; none is seen from another

Shape suffixes here and in `nn/`, `models/`, `tasks/`: B batch, T time, D model width, H heads, K head width,
V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CONTEXT = ("lengths", "segments", "source", "source_lengths", "documents")


def context_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those entries of a batch that are in `CONTEXT`."""
    return {name: batch[name] for name in CONTEXT if name in batch}


def pool(hidden_BTD: Tensor, lengths_B: Tensor | None, how: str) -> Tensor:
    """(B, D): the vector of each row's last token ("last"), or "mean" or "max" over its tokens, feature by feature.

    Padding, the positions from `lengths` on, is left out; without lengths there is none.
    """
    if lengths_B is None:
        if how == "last":
            return hidden_BTD[:, -1]
        return hidden_BTD.mean(dim=1) if how == "mean" else hidden_BTD.amax(dim=1)
    batch, length, _ = hidden_BTD.shape
    if how == "last":
        return hidden_BTD[torch.arange(batch, device=lengths_B.device), lengths_B - 1]
    is_padding_BT1 = (torch.arange(length, device=lengths_B.device) >= lengths_B[:, None]).unsqueeze(2)
    if how == "max":
        return hidden_BTD.masked_fill(is_padding_BT1, -torch.inf).amax(dim=1)
    return hidden_BTD.masked_fill(is_padding_BT1, 0).sum(dim=1) / lengths_B[:, None]


def padding_mask(lengths_B: Tensor, length: int) -> Tensor:
    """(B, 1, 1, T) bool for attention: true at the tokens, false at the padding after them."""
    positions_T = torch.arange(length, device=lengths_B.device)
    return (positions_T < lengths_B[:, None])[:, None, None]


def document_mask(documents_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool for causal attention within documents: true at the tokens of the same one, up to each."""
    length = documents_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()
    return ((documents_BT[:, :, None] == documents_BT[:, None, :]) & causal_TT)[:, None]


def document_positions(documents_BT: Tensor) -> Tensor:
    """(B, T) int64: the place of each token in its document, or in the part of it that stands in this row."""
    places_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = documents_BT.diff(dim=1, prepend=documents_BT[:, :1]) != 0
    return places_T - (begins_BT * places_T).cummax(dim=1).values


class Features(NamedTuple):
    """`hidden` (B, T, D) per position, `pooled` (B, D) per sample, `state` after the inputs; each may be None."""

    hidden: Tensor | None
    pooled: Tensor | None
    state: Any = None
