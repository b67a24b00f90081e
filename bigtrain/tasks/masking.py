"""Which tokens of a text are to be predicted, and what replaces them in the input (BERT, arXiv:1810.04805, 3.1).

Pure functions of the samples' keys: the mask of a text depends on neither batch nor rank, and differs between epochs.
Shapes: B batch, T time, M predicted positions.
"""

from __future__ import annotations

import math

import numpy as np

from bigtrain.randomness import SeedDomain, uniforms

MASKED, REPLACED = 0.8, 0.1  # shares of the predicted tokens replaced by [MASK], and by a random token; the others stay

_NEVER = 2.0  # above every uniform draw, so it sorts last


def num_slots(rate: float, length: int) -> int:
    """M, the most predicted tokens of a text of T tokens; the same for all texts of a batch."""
    return max(1, math.ceil(rate * length))


def choose(keys_B: np.ndarray, allowed_BT: np.ndarray, rate: float, words_BT: np.ndarray | None = None) -> np.ndarray:
    """(B, T) bool: the tokens to guess, `rate` of the allowed ones, rounded to a whole number, but one at least.

    With `words`, the number of the word that each token is part of, whole words only: as many as fit into that number,
    in the order drawn. A word that is longer by itself is never chosen.
    """
    length = allowed_BT.shape[1]
    budget_B1 = np.maximum(1, np.rint(rate * allowed_BT.sum(axis=1, keepdims=True)))
    drawn_BT = uniforms(keys_B, length, SeedDomain.MASKED_POSITIONS)
    if words_BT is None:
        words_BT = np.broadcast_to(np.arange(length), allowed_BT.shape)
    else:
        drawn_BT = np.take_along_axis(drawn_BT, words_BT, axis=1)
        allowed_BT = allowed_BT & (_sizes(words_BT) <= budget_B1)
    order_BT = np.where(allowed_BT, drawn_BT, _NEVER).argsort(axis=1, kind="stable")
    words_BT = np.take_along_axis(words_BT, order_BT, axis=1)
    is_last_BT = np.diff(words_BT, axis=1, append=-1) != 0
    # How many tokens have been chosen once the word is complete.
    count_BT = np.where(is_last_BT, np.arange(1, length + 1), length)
    count_BT = np.minimum.accumulate(count_BT[:, ::-1], axis=1)[:, ::-1]
    chosen_BT = np.empty_like(allowed_BT)
    np.put_along_axis(chosen_BT, order_BT, count_BT <= budget_B1, axis=1)
    return chosen_BT & allowed_BT


def hide(
    keys_B: np.ndarray, tokens_BT: np.ndarray, chosen_BT: np.ndarray, mask_id: int, ordinary: np.ndarray
) -> np.ndarray:
    """The input tokens (B, T): of the chosen ones 80 % are the mask, 10 % random `ordinary` ids, 10 % unchanged."""
    length = tokens_BT.shape[1]
    fate_BT = uniforms(keys_B, length, SeedDomain.MASK_REPLACEMENT)
    random_BT = ordinary[(uniforms(keys_B, length, SeedDomain.MASK_RANDOM_TOKEN) * len(ordinary)).astype(np.int64)]
    read_BT = np.where(fate_BT < MASKED, mask_id, np.where(fate_BT < MASKED + REPLACED, random_BT, tokens_BT))
    return np.where(chosen_BT, read_BT, tokens_BT)


def positions_of(chosen_BT: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (B, M) of the chosen tokens, in their order, and whether each slot (B, M) holds one."""
    positions_BM = (~chosen_BT).argsort(axis=1, kind="stable")[:, :slots]
    return positions_BM, np.take_along_axis(chosen_BT, positions_BM, axis=1)


def number_words(begins_BT: np.ndarray, allowed_BT: np.ndarray) -> np.ndarray:
    """(B, T): which word each token is part of. One begins with a token that says so, and after what is not allowed."""
    follows_BT = np.pad(allowed_BT, ((0, 0), (1, 0)))[:, :-1]
    return np.cumsum(begins_BT | ~allowed_BT | ~follows_BT, axis=1) - 1


def _sizes(words_BT: np.ndarray) -> np.ndarray:
    """(B, T): the number of tokens in the word of each token."""
    rows, length = words_BT.shape
    numbers_BT = words_BT + length * np.arange(rows)[:, None]
    return np.bincount(numbers_BT.ravel(), minlength=rows * length)[numbers_BT]
