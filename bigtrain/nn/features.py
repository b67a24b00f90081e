"""What a backbone hands to its heads.

Shape suffixes here and in `nn/`, `models/`, `tasks/`: B batch, T time, D model width, H heads, K head width,
V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """`hidden` (B, T, D) per position or None; `pooled` (B, D) per sample or None; `state` to go on from, or
    None.
    """

    hidden: Tensor | None
    pooled: Tensor | None
    state: Any = None
