"""Beam search for the most probable targets. With one beam it is greedy decoding: the argmax at each step.

At each step the candidates among the `num_beams` best that end the target are put aside, and the `num_beams` best of
the others are kept as beams. A source is done when `num_beams` targets have ended and score no worse than the best
beam's present score (the rule of Hugging Face's `generate`). Stopping at `num_beams` ended targets alone would be
wrong: improbable targets often end first. Which sources share a batch changes nothing but rounding.

Shapes: B sources, K beams, N = B K rows, C candidates, V vocabulary, T time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

# (newest ids (N, 1), state) → (scores over the vocabulary (N, V), state to go on from, with `select(rows)`)
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

_LENGTH_ALLOWANCE = 10  # tokens added to the multiple of the source's: a short source may have a long target


@dataclass(frozen=True)
class Search:
    """Settings of a beam search.

    Targets are ranked by log P / ((5 + tokens) / 6)^`length_penalty`, the end counted (arXiv:1609.08144, section 7); at
    0 by log P alone, which prefers short ones. None is longer than `max_length_factor` times its source, plus 10, or
    than `max_tokens`.
    """

    num_beams: int = 1
    length_penalty: float = 0.6
    max_length_factor: float = 2.0
    max_tokens: int | None = None

    def score(self, log_probability: float, tokens: int) -> float:
        """The length-normalised log probability, by which targets are ranked."""
        return log_probability / ((5 + tokens) / 6) ** self.length_penalty

    def limits(self, source_lengths_B: Tensor, max_length: int) -> Tensor:
        """The most tokens (B,) of each target, its end included."""
        longest_B = (source_lengths_B * self.max_length_factor).ceil().long() + _LENGTH_ALLOWANCE
        return longest_B.clamp(max=min(max_length, self.max_tokens or max_length))


class Hypothesis(NamedTuple):
    """A target without its beginning and end; `ended` is false where it was cut off at its longest."""

    ids: list[int]
    score: float
    ended: bool


class _Beams(NamedTuple):
    """The beams of each source that is not done: tokens so far and their log P, the best first."""

    sources: Tensor  # (B,) indices
    tokens: Tensor  # (B, K, T)
    scores: Tensor  # (B, K); -inf where there are fewer

    def hypotheses(self, rows: Tensor, search: Search, ended: bool) -> list[tuple[int, Hypothesis]]:
        """(source, hypothesis) of those marked in `rows` (B, K) bool."""
        tokens = self.tokens.shape[2] - 1 + ended
        return [
            (int(self.sources[row]), Hypothesis(self.tokens[row, beam, 1:].tolist(), score, ended))
            for row, beam in rows.nonzero().tolist()
            for score in [search.score(float(self.scores[row, beam]), tokens)]
        ]


def beam_search(
    step: Step, state: Any, limits_B: Tensor, begin_id: int, end_id: int, search: Search
) -> list[list[Hypothesis]]:
    """Up to K targets for each source, the best first; those that ended come before those that were cut off."""
    found: list[list[Hypothesis]] = [[] for _ in limits_B]
    beams = _first_beams(len(limits_B), search.num_beams, begin_id, limits_B.device)
    for length in count(1):
        logits_NV, state = step(beams.tokens[:, :, -1].reshape(-1, 1), state)
        ending, going_on, parents_BK = _extend(beams, logits_NV, end_id)
        new = ending.hypotheses(ending.scores.isfinite(), search, ended=True)
        cut_B = limits_B[beams.sources] <= length
        new += going_on.hypotheses(cut_B[:, None] & going_on.scores.isfinite(), search, ended=False)
        for source, hypothesis in new:
            found[source].append(hypothesis)
        candidates = zip(beams.sources.tolist(), going_on.scores[:, 0].tolist(), strict=True)
        done = [_is_done(found[source], best, search, length) for source, best in candidates]
        left = (~cut_B & ~torch.tensor(done, device=cut_B.device)).nonzero().squeeze(1)
        if not len(left):
            break
        rows_N = (torch.arange(len(done), device=left.device)[:, None] * search.num_beams + parents_BK)[left].flatten()
        if not torch.equal(rows_N, torch.arange(parents_BK.numel(), device=left.device)):
            state = state.select(rows_N)
        beams = _Beams(*(value[left] for value in going_on))
    best_first = [sorted(each, key=lambda one: (one.ended, one.score), reverse=True) for each in found]
    return [each[: search.num_beams] for each in best_first]


def _first_beams(batch: int, num_beams: int, begin_id: int, device: torch.device) -> _Beams:
    """Only the first beam has a finite score: all of them are the same at first."""
    scores_BK = torch.full((batch, num_beams), -torch.inf, device=device)
    scores_BK[:, 0] = 0.0
    tokens_BKT = torch.full((batch, num_beams, 1), begin_id, device=device)
    return _Beams(torch.arange(batch, device=device), tokens_BKT, scores_BK)


def _extend(beams: _Beams, logits_NV: Tensor, end_id: int) -> tuple[_Beams, _Beams, Tensor]:
    """The best candidates that end the target (without the end token), the best that continue it, and the beam (B, K)
    that each of the latter extends.
    """
    sources, tokens_BKT, scores_BK = beams
    batch, num_beams, _ = tokens_BKT.shape
    totals_BKV = logits_NV.log_softmax(dim=-1).view(batch, num_beams, -1) + scores_BK[:, :, None]
    # A beam has one candidate that ends it, so at least half of 2 K candidates continue.
    best_BC, flat_BC = totals_BKV.flatten(1).topk(min(2 * num_beams, totals_BKV[0].numel()))
    parents_BC, ids_BC = flat_BC // totals_BKV.shape[2], flat_BC % totals_BKV.shape[2]
    ends_BC = ids_BC == end_id

    end_scores_BK = best_BC.masked_fill(~ends_BC, -torch.inf)[:, :num_beams]
    ending = _Beams(sources, _rows(tokens_BKT, parents_BC[:, :num_beams]), end_scores_BK)

    scores_BK, order_BK = best_BC.masked_fill(ends_BC, -torch.inf).topk(num_beams)
    parents_BK, ids_BK = parents_BC.gather(1, order_BK), ids_BC.gather(1, order_BK)
    going_on_BKT = torch.cat((_rows(tokens_BKT, parents_BK), ids_BK[:, :, None]), dim=2)
    return ending, _Beams(sources, going_on_BKT, scores_BK), parents_BK


def _rows(tokens_BKT: Tensor, beams_BK: Tensor) -> Tensor:
    return tokens_BKT.gather(1, beams_BK[:, :, None].expand(-1, -1, tokens_BKT.shape[2]))


def _is_done(found: list[Hypothesis], best_beam: float, search: Search, length: int) -> bool:
    """`best_beam`: log P of the best unfinished beam after `length` tokens; -inf where there is none."""
    scores = sorted((hypothesis.score for hypothesis in found), reverse=True)[: search.num_beams]
    enough = len(scores) == search.num_beams and scores[-1] >= search.score(best_beam, length)
    return enough or best_beam == -torch.inf
