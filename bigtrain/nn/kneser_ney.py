"""n-gram probabilities by interpolated modified Kneser-Ney smoothing (Chen & Goodman 1999, doi:10.1006/csla.1999.0128).

Of order k, with context h of k - 1 tokens, its end h' without the first of them, and V the vocabulary:

    P_k(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + γ(h) P_{k-1}(w | h'),   P_0(w) = 1 / V,
    γ(h) = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h)) / c(h),   and P_{k-1}(w | h') alone where h never occurred

c counts occurrences at the highest order and, below, the different tokens that precede h w; N_i(h) the different tokens
that follow h i times. The beginning of a text is a token of its own. Tables hold the n-grams that occur, as sorted
integer keys: a context is encoded by the number of its end h' and the token before that, an n-gram by the number of its
context and its last token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_DENSE = 8  # up to so many possible values for each one given, a table of all of them is faster than sorting
_FALLBACK = (0.5, 1.0, 1.5)  # KenLM's, where the estimate is undefined for too few n-grams of a count


@dataclass
class _Level:
    """The n-grams of order k, of contexts numbered from 0."""

    contexts: Tensor  # (C,) int64, sorted: number of the context's end, of order k - 1, · (V + 1) + the token before
    grams: Tensor  # (G,) int64, sorted: number of the context · V + the last token
    counts: Tensor  # (G,) int64
    totals: Tensor  # (C,) fp64: c(h)
    kinds: Tensor  # (C, 3) fp64: N_1, N_2, N_3+


@dataclass
class _LookedUp:
    """Of n-grams h w of one order: c(h w), c(h), 0 where h never occurred, and N_1, N_2, N_3+ of h."""

    count: Tensor  # (N,) int64
    total: Tensor  # (N,) fp64
    kinds: Tensor  # (N, 3) fp64

    def without(self, counted: Tensor) -> tuple[_LookedUp, Tensor]:
        """The same with one occurrence less where `counted` (N,) bool, and whether a count becomes zero by that."""
        less = counted.long()
        left = self.count - less
        kinds = self.kinds - _kind_of(self.count) * less[:, None] + _kind_of(left) * less[:, None]
        return _LookedUp(left, self.total - less, kinds), counted & (left == 0)


class KneserNey:
    """Counts of `tokens` (R, T+1) int64, R texts: of each token but the first, and of those only where `scored` (R, T).

    `report` is called with the fraction done. `discounts` (order, 3) fp64: the estimates of D_1, D_2 and D_3 of each
    order, the lowest first. Methods take others in their place, each above 0 and below 1, 2 and 3, and differentiate
    with respect to them.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        tokens: Tensor,
        scored: Tensor | None = None,
        report: Callable[[float], None] = lambda fraction: None,
    ):
        self.order = order
        self.vocab_size = vocab_size
        self._levels = _count(order, vocab_size, tokens, scored, report)
        self.discounts = torch.stack([_discounts(level.counts) for level in self._levels])

    @property
    def tokens(self) -> int:
        """Number of counted targets."""
        return int(self._levels[-1].counts.sum())

    def probabilities(
        self, contexts: Tensor, token: Tensor, discounts: Tensor | None = None, *, leave_one_out: bool = False
    ) -> Tensor:
        """P(w | h), (N,) fp64, of tokens (N,) after contexts (N, order - 1), whose last token is the nearest.

        -1 in a context stands for a position before the text. `leave_one_out`: for tokens that were counted, by the
        counts without the token itself (Ney, Essen & Kneser 1994, doi:10.1006/csla.1994.1001).
        """
        discounts = self.discounts if discounts is None else discounts
        looked_up = [
            _look_up(level, number, known, token, self.vocab_size)
            for level, (number, known) in zip(self._levels, self._found(contexts), strict=True)
        ]
        if leave_one_out:
            counted = looked_up[-1].count > 0
            for place in reversed(range(self.order)):
                looked_up[place], counted = looked_up[place].without(counted)
        answer = torch.full(token.shape, 1 / self.vocab_size, dtype=torch.float64, device=token.device)
        for one, of_order in zip(looked_up, discounts, strict=True):
            own = one.count - _discount_of(one.count, of_order)
            at_order = (own + one.kinds @ of_order * answer) / one.total.clamp(min=1)
            answer = torch.where(one.total > 0, at_order, answer)
        return answer

    def distribution(self, contexts: Tensor, discounts: Tensor | None = None) -> Tensor:
        """P(· | h), (B, V) fp64, after contexts (B, order - 1)."""
        discounts = self.discounts if discounts is None else discounts
        shape = (len(contexts), self.vocab_size)
        answer = torch.full(shape, 1 / self.vocab_size, dtype=torch.float64, device=contexts.device)
        for level, of_order, (number, known) in zip(self._levels, discounts, self._found(contexts), strict=True):
            first = torch.searchsorted(level.grams, number * self.vocab_size)
            last = torch.searchsorted(level.grams, (number + 1) * self.vocab_size)
            followers = torch.where(known, last - first, 0)
            row = torch.repeat_interleave(followers)
            place = torch.arange(len(row), device=row.device) + (first - followers.cumsum(0) + followers)[row]
            count, total = level.counts[place], level.totals[number]
            own = (count - _discount_of(count, of_order)) / total[row]
            backed_off = (level.kinds[number] @ of_order / total)[:, None] * answer
            at_order = backed_off.index_put((row, level.grams[place] % self.vocab_size), own, accumulate=True)
            answer = torch.where(known[:, None], at_order, answer)
        return answer

    def _found(self, contexts: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each order, the number (N,) of the context and whether it has occurred (else the number is 0)."""
        number = torch.zeros(len(contexts), dtype=torch.int64, device=contexts.device)
        known = torch.ones_like(number, dtype=torch.bool)
        found = [(number, known)]
        for back, level in enumerate(self._levels[1:], start=1):
            number, occurs = _find(level.contexts, number * (self.vocab_size + 1) + contexts[:, -back] + 1)
            known = known & occurs
            number = torch.where(known, number, 0)
            found.append((number, known))
        return found


def contexts_of(tokens: Tensor, length: int) -> Tensor:
    """(R, T, length): the tokens before each token (R, T+1) but the first; -1 before the text."""
    padded = torch.nn.functional.pad(tokens[:, :-1], (length, 0), value=-1)
    return padded.unfold(1, length, 1)[:, 1:] if length else tokens[:, :-1, None][:, :, :0]


def joined(tokens: Tensor, scored: Tensor, follow: bool) -> tuple[Tensor, Tensor]:
    """Windows `tokens` (R, T+1) and `scored` (R, T) as texts: unchanged, or joined to one text where they `follow`."""
    if not follow:
        return tokens, scored
    return torch.cat((tokens[0, :1], tokens[:, 1:].flatten()))[None], scored.reshape(1, -1)


def _count(
    order: int, vocab_size: int, tokens: Tensor, scored: Tensor | None, report: Callable[[float], None]
) -> list[_Level]:
    length = tokens.shape[1] - 1
    padded = torch.nn.functional.pad(tokens, (max(0, order - 2), 0), value=-1)
    chosen = slice(None) if scored is None else scored.flatten().nonzero().squeeze(1)
    number = torch.zeros(tokens.shape[0] * length, dtype=torch.int64, device=tokens.device)[chosen]
    keys = [number[:1]]  # the one empty context
    for back in range(1, order):
        first = padded.shape[1] - 1 - length - (back - 1)
        before = padded[:, first : first + length].flatten()[chosen]
        key, number = _numbered(number * (vocab_size + 1) + before + 1, len(keys[-1]) * (vocab_size + 1))
        keys.append(key)
        report(back / (2 * order))
    last = tokens[:, 1:].flatten()[chosen]
    grams, counts = _counted(number * vocab_size + last, len(keys[-1]) * vocab_size)
    levels = [_level(keys[-1], grams, counts, vocab_size)]
    for below in reversed(range(order - 1)):
        # Each n-gram of the order above is one token that precedes an n-gram of this order.
        context, token = grams // vocab_size, grams % vocab_size
        end = keys[below + 1][context] // (vocab_size + 1)
        grams, counts = _counted(end * vocab_size + token, len(keys[below]) * vocab_size)
        levels.append(_level(keys[below], grams, counts, vocab_size))
        report(1 - below / (2 * order))
    return levels[::-1]


def _numbered(values: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """The different ones of `values` (N,) in [0, end), sorted, and for each value its place among them."""
    if end > _DENSE * len(values):
        return torch.unique(values, return_inverse=True)  # type: ignore[no-any-return]
    occurs = torch.zeros(end, dtype=torch.bool, device=values.device)
    occurs[values] = True
    found = occurs.nonzero().squeeze(1)
    place = torch.empty(end, dtype=torch.int64, device=values.device)
    place[found] = torch.arange(len(found), device=values.device)
    return found, place[values]


def _counted(values: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """The different ones of `values` (N,) in [0, end), sorted, and how often each occurs."""
    if end > _DENSE * len(values):
        return torch.unique(values, return_counts=True)  # type: ignore[no-any-return]
    counts = torch.bincount(values, minlength=end)
    found = counts.nonzero().squeeze(1)
    return found, counts[found]


def _level(contexts: Tensor, grams: Tensor, counts: Tensor, vocab_size: int) -> _Level:
    size, of_context = len(contexts), grams // vocab_size
    totals = torch.zeros(size, dtype=torch.float64, device=counts.device).index_add_(0, of_context, counts.double())
    kinds = torch.bincount(of_context * 3 + counts.clamp(max=3) - 1, minlength=size * 3)
    return _Level(contexts, grams, counts, totals, kinds.view(size, 3).double())


def _look_up(level: _Level, number: Tensor, known: Tensor, token: Tensor, vocab_size: int) -> _LookedUp:
    place, occurs = _find(level.grams, number * vocab_size + token)
    count = torch.where(known & occurs, level.counts[place], 0)
    return _LookedUp(count, torch.where(known, level.totals[number], 0.0), level.kinds[number])


def _kind_of(count: Tensor) -> Tensor:
    """(N, 3) fp64, one-hot: the count is 1, 2, or 3 and more; all zero where it is 0."""
    return (count.clamp(max=3)[:, None] == torch.arange(1, 4, device=count.device)).double()


def _discounts(counts: Tensor) -> Tensor:
    """(3,) fp64: D_1, D_2 and D_3 by how many n-grams occur once, twice, … (Chen & Goodman, equation 26)."""
    once, twice, thrice, four = torch.bincount(counts.clamp(max=5), minlength=5)[1:5].tolist()
    found = list(_FALLBACK)
    if once and twice:
        share = once / (once + 2 * twice)
        estimates = (
            1 - 2 * share * twice / once,
            2 - 3 * share * thrice / twice,
            3 - 4 * share * four / max(thrice, 1),
        )
        usable = (True, thrice > 0, thrice > 0 and four > 0)
        for place, (estimate, there) in enumerate(zip(estimates, usable, strict=True)):
            if there and estimate > 0:
                found[place] = estimate
    return torch.tensor(found, dtype=torch.float64, device=counts.device)


def _discount_of(count: Tensor, discounts: Tensor) -> Tensor:
    return torch.where(count > 0, discounts[(count - 1).clamp(0, 2)], 0.0)


def _find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Index (N,) of each wanted key among sorted keys, and whether it is there (else the index is arbitrary)."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return place, keys[place] == wanted
