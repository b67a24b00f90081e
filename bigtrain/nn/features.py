"""What a backbone is told beside its inputs, and what it hands to its heads.

`backbone(inputs, state=None, **context)`. The context of a batch is what it has of these, and a backbone takes by name
those that its kind of sample can bring:

    lengths          (B,) int64   tokens of each row of `inputs`; what is right of them is padding (0)
    segments         (B, T) int64 which of two texts each token belongs to, 0 or 1
    source           (B, S) int64 for an encoder; `inputs` are then the decoder's
    source_lengths   (B,) int64

Shape suffixes here and in `nn/`, `models/`, `tasks/`: B batch, T time, D model width, H heads, K head width,
V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CONTEXT = ("lengths", "segments", "source", "source_lengths")


def context_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch has of `CONTEXT`."""
    return {name: batch[name] for name in CONTEXT if name in batch}


def last_before_padding(hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """(B, D): of each row the vector of its last token."""
    return hidden_BTD[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]


def pool(hidden_BTD: Tensor, lengths_B: Tensor | None, how: str) -> Tensor:
    """(B, D): of each row the vector of its last token, or over its tokens the mean or, feature by feature, the max.

    `how`: "last", "mean" or "max". Padding, right of `lengths`, has no part in it; without lengths there is none.
    """
    if how == "last":
        return hidden_BTD[:, -1] if lengths_B is None else last_before_padding(hidden_BTD, lengths_B)
    if lengths_B is None:
        return hidden_BTD.mean(dim=1) if how == "mean" else hidden_BTD.amax(dim=1)
    is_padding_BT1 = (torch.arange(hidden_BTD.shape[1], device=lengths_B.device) >= lengths_B[:, None]).unsqueeze(2)
    if how == "max":
        return hidden_BTD.masked_fill(is_padding_BT1, -torch.inf).amax(dim=1)
    return hidden_BTD.masked_fill(is_padding_BT1, 0).sum(dim=1) / lengths_B[:, None]


def padding_mask(lengths_B: Tensor, length: int) -> Tensor:
    """(B, 1, 1, T) bool for attention: true at the tokens, false at the padding right of them."""
    positions_T = torch.arange(length, device=lengths_B.device)
    return (positions_T < lengths_B[:, None])[:, None, None]


class Features(NamedTuple):
    """`hidden` (B, T, D) per position or None; `pooled` (B, D) per sample or None; `state` to go on from, or
    None.
    """

    hidden: Tensor | None
    pooled: Tensor | None
    state: Any = None
