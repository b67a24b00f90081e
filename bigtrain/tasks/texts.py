"""The input of an encoder: a window of a stream as one text or as two, or a sentence as it is.

[CLS] and [SEP] are the tokenizer's tokens for the beginning and the end of a text, or absent where it has none. Which
tokens are hidden is in `tasks/masking.py`. Shapes: B batch, T time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.randomness import SeedDomain, uniforms
from bigtrain.tasks.base import Batch

FOLLOWS, STRANGER = 0, 1  # labels of the second text, as BERT numbers them


class Texts(NamedTuple):
    """Arrays (B, T) each; `present` is false at padding, `guessable` where a token must not be hidden."""

    tokens: np.ndarray
    segments: np.ndarray  # 0 or 1
    guessable: np.ndarray
    present: np.ndarray


class Frame(NamedTuple):
    """The ids of [CLS] and [SEP]; None: there is no such token."""

    begin: int | None
    separator: int | None


def sentence(samples: Batch) -> Texts:
    """`tokens` (B, T) and `lengths` as they are: they have [CLS] and [SEP] already."""
    tokens_BT = samples["tokens"].numpy()
    present_BT = np.arange(tokens_BT.shape[1]) < samples["lengths"].numpy()[:, None]
    return Texts(tokens_BT, np.zeros_like(tokens_BT), present_BT, present_BT)


def one_text(samples: Batch, frame: Frame) -> Texts:
    """[CLS] and tokens 1 … T-1 of a window of T+1: the first is the last of the window before, which the last begins.

    Without [CLS] the first one is read, but never guessed.
    """
    window = _window(samples)
    if frame.begin is None:
        return _part(window, slice(0, -1), segment=0)
    return _without_gaps([_mark(window, frame.begin, segment=0), _part(window, slice(1, -1), segment=0)])


def two_texts(samples: Batch, frame: Frame) -> tuple[Texts, np.ndarray]:
    """[CLS] A [SEP] B [SEP], T tokens; and what B is to A, (B,), UNSCORED where either is empty.

    A is the first half of a window, B its second one or, with probability 1/2 by the sample's key, the second half of
    its partner. Nothing looks for borders of sentences or documents.
    """
    own, partner = _window(samples), _window(samples, "partner_")
    begin, middle, end = (
        _mark(own, frame.begin, segment=0),
        _mark(own, frame.separator, segment=0),
        _mark(own, frame.separator, segment=1),
    )
    room = own.tokens.shape[1] - 1 - sum(mark.tokens.shape[1] for mark in (begin, middle, end))
    border = 1 + -(-room // 2)
    first = _part(own, slice(1, border), segment=0)
    seconds = [_part(window, slice(border, 1 + room), segment=1) for window in (own, partner)]
    keys_B = samples["keys"].numpy().view(np.uint64)
    is_strange_B = uniforms(keys_B, 1, SeedDomain.SECOND_TEXT)[:, 0] < 0.5
    is_strange_B &= (own.tokens != partner.tokens).any(axis=1)  # a window may have been drawn as its own partner
    second = Texts(*(np.where(is_strange_B[:, None], *reversed(pair)) for pair in zip(*seconds, strict=True)))
    labels_B = np.where(is_strange_B, STRANGER, FOLLOWS)
    labels_B[~(first.present.any(axis=1) & second.present.any(axis=1))] = UNSCORED
    return _without_gaps([begin, first, middle, second, end]), labels_B


def _window(samples: Batch, prefix: str = "") -> Texts:
    """`tokens` (B, T+1) and perhaps `scored` (B, T); what follows the last token that is scored only fills up."""
    tokens = samples[f"{prefix}tokens"].numpy()
    guessable = np.ones(tokens.shape, dtype=bool)
    if f"{prefix}scored" in samples:
        guessable[:, 1:] = samples[f"{prefix}scored"].numpy()
    present = np.logical_or.accumulate(guessable[:, ::-1], axis=1)[:, ::-1]
    guessable[:, 0] = False
    return Texts(tokens, np.zeros_like(tokens), guessable, present)


def _part(window: Texts, columns: slice, segment: int) -> Texts:
    part = Texts(*(x[:, columns] for x in window))
    return part._replace(segments=np.full_like(part.tokens, segment))


def _mark(window: Texts, special: int | None, segment: int) -> Texts:
    """A special token for each row, or none."""
    shape = (len(window.tokens), 0 if special is None else 1)
    tokens = np.full(shape, special or 0)
    return Texts(tokens, np.full(shape, segment), np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool))


def _without_gaps(parts: list[Texts]) -> Texts:
    """The parts concatenated along T; absent tokens move to the end of their row and become 0."""
    joined = Texts(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    order_BT = (~joined.present).argsort(axis=1, kind="stable")
    moved = Texts(*(np.take_along_axis(x, order_BT, axis=1) for x in joined))
    return moved._replace(tokens=moved.tokens * moved.present, segments=moved.segments * moved.present)
