"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) of generated texts against references, by sacrebleu
(arXiv:1804.08771) with its default settings, as statistics that add up over batches and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def text_statistics(texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
    """`bleu` (10,) and `chrf` (18,): n-gram counts and lengths, summed over the texts."""
    return {
        name: torch.tensor(metric._extract_corpus_statistics(texts, [references]), dtype=torch.float64).sum(dim=0)
        for name, metric in _metrics().items()
    }


def text_scores(totals: dict[str, Tensor], prefix: str = "") -> dict[str, float]:
    """BLEU and chrF, from 0 to 100, of all texts whose statistics were summed; `prefix`: of the names in and out."""
    return {
        prefix + name: float(metric._aggregate_and_compute([[round(count) for count in counts.tolist()]]).score)
        for name, metric in _metrics().items()
        if (counts := totals.get(prefix + name)) is not None
    }


def _metrics() -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF  # 0.1 s, and only where texts are written

    return {"bleu": BLEU(), "chrf": CHRF()}
