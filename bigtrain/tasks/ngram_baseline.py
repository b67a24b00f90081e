"""n-gram models of the training split, as baselines of a language model's loss.

Those of order 5 have Kneser-Ney smoothing (`nn/kneser_ney.py`). Unigrams and bigrams have Witten & Bell's (1991, method
C, interpolated). With c(w) the count of a token and c(v, w) that of a token after another, among the N scored targets
of the training split, t(v) the number of different tokens that follow v, t the number of different tokens, and V the
size of the vocabulary:

    P(w)     = (c(w) + t / V) / (N + t)
    P(w | v) = (c(v, w) + t(v) P(w)) / (c(v) + t(v)),  and P(w) where c(v) = 0

Counts are kept for the pairs that occur, so a vocabulary of 50,000 takes no table of 50,000².
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import DataModule, Dataset
from bigtrain.nn.kneser_ney import KneserNey, contexts_of, joined
from bigtrain.tasks.base import Baselines

MAX_TOKENS = 20_000_000  # counted at most: 3 s
ORDER = 5
MAX_TOKENS_OF_ORDER = 2_000_000  # counted at most, and looked up: 0.3 s for 1.1 MB of characters
_CHUNK_TOKENS = 1 << 20


class NgramModel:
    """Unigram and bigram probabilities from the first windows of a dataset, of about `max_tokens` tokens at most.

    `whole` says whether those are all.
    """

    def __init__(self, dataset: Dataset, vocab_size: int, max_tokens: int = MAX_TOKENS):
        windows = min(len(dataset), -(-max_tokens // _width(dataset)))
        self.whole = windows == len(dataset)
        self._vocab_size = vocab_size
        self._pairs, self._counts = _count_pairs(dataset, vocab_size, windows)
        before, token = np.divmod(self._pairs, vocab_size)
        self._token_counts = np.bincount(token, self._counts, vocab_size)
        self._before_counts = np.bincount(before, self._counts, vocab_size)
        self._followers = np.bincount(before, minlength=vocab_size)

    @property
    def tokens(self) -> int:
        """Targets that were counted."""
        return int(self._counts.sum())

    def unigram(self, token: np.ndarray) -> np.ndarray:
        """P(w), float64, of tokens (N,)."""
        return smoothed_unigram(self._token_counts, token)

    def bigram(self, before: np.ndarray, token: np.ndarray) -> np.ndarray:
        """P(w | v), float64, of tokens (N,) after `before` (N,)."""
        pairs = before * self._vocab_size + token
        places = np.searchsorted(self._pairs, pairs).clip(max=len(self._pairs) - 1)
        counts = np.where(self._pairs[places] == pairs, self._counts[places], 0)
        # A token that nothing follows counts as followed once, by the unigram distribution.
        followers = np.maximum(self._followers[before], 1)
        return (counts + followers * self.unigram(token)) / (self._before_counts[before] + followers)

    def losses(self, dataset: Dataset) -> dict[str, float]:
        """`unigram_loss` and `bigram_loss`: nats per scored target of all of a dataset."""
        pairs, counts = _count_pairs(dataset, self._vocab_size, len(dataset))
        before, token = np.divmod(pairs, self._vocab_size)
        surprise = {"unigram_loss": -np.log(self.unigram(token)), "bigram_loss": -np.log(self.bigram(before, token))}
        return {name: float(nats @ counts / counts.sum()) for name, nats in surprise.items()}


def smoothed_unigram(counts: np.ndarray, token: np.ndarray) -> np.ndarray:
    """P(w), float64, of tokens (N,), from how often each of the vocabulary occurred (V,)."""
    kinds = np.count_nonzero(counts)
    return (counts[token] + kinds / len(counts)) / (counts.sum() + kinds)  # type: ignore[no-any-return]


def ngram_baselines(data: DataModule, splits: Sequence[str]) -> Baselines:
    """Of each split the losses of n-grams counted in the training split, in nats per scored target."""
    assert data.spec.vocab_size is not None, "counting needs tokens"
    train = data.dataset("train")
    model, high = NgramModel(train, data.spec.vocab_size), HigherOrder(train, data.spec.vocab_size)
    losses = {
        split: model.losses(data.dataset(split)) | {f"{ORDER}gram_loss": high.loss(data.dataset(split))}
        for split in splits
    }
    notes = [] if model.whole else [f"the bigram baseline is of {MAX_TOKENS:,} tokens of the train split"]
    notes += [] if high.whole else [f"the {ORDER}gram baseline is of {MAX_TOKENS_OF_ORDER:,} tokens of each split"]
    return Baselines(losses, notes)


class HigherOrder:
    """n-grams of order ORDER, counted in the first windows of a dataset, of about `max_tokens` tokens at most.

    `whole` says whether those were all, of what was counted and of what was measured.
    """

    def __init__(self, dataset: Dataset, vocab_size: int, max_tokens: int = MAX_TOKENS_OF_ORDER):
        self._max_tokens = max_tokens
        self.whole = True
        self._model = KneserNey(ORDER, vocab_size, *self._texts(dataset))

    def loss(self, dataset: Dataset) -> float:
        """Nats per scored target."""
        tokens, scored = self._texts(dataset)
        nats, count = 0.0, 0
        for first in range(0, tokens.shape[1] - 1, _CHUNK_TOKENS):
            # With the ORDER - 1 tokens of context before the chunk.
            start = max(0, first - ORDER + 1)
            chunk = tokens[:, start : first + _CHUNK_TOKENS + 1]
            chosen = scored[:, start : first + _CHUNK_TOKENS].clone()
            chosen[:, : first - start] = False
            contexts = contexts_of(chunk, ORDER - 1)[chosen]
            nats -= float(self._model.probabilities(contexts, chunk[:, 1:][chosen]).log().sum())
            count += int(chosen.sum())
        return nats / count

    def _texts(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        windows = min(len(dataset), -(-self._max_tokens // _width(dataset)))
        self.whole = self.whole and windows == len(dataset)
        samples = dataset.gather(np.arange(windows))
        tokens = samples["tokens"]
        scored = samples.get("scored", torch.ones_like(tokens[:, 1:], dtype=torch.bool))
        return joined(tokens, scored, dataset.contiguous)


def _count_pairs(dataset: Dataset, vocab_size: int, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (token before, scored target) that occur, as before · V + target, in order; and how often each does."""
    pairs, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    rows = max(1, _CHUNK_TOKENS // _width(dataset))
    for first in range(0, windows, rows):
        chunk = _pairs(dataset, vocab_size, np.arange(first, min(first + rows, windows)))
        chunk_pairs, chunk_counts = np.unique(chunk, return_counts=True)
        merged, places = np.unique(np.concatenate((pairs, chunk_pairs)), return_inverse=True)
        counts = np.bincount(places, np.concatenate((counts, chunk_counts)), len(merged)).astype(np.int64)
        pairs = merged
    return pairs, counts


def _pairs(dataset: Dataset, vocab_size: int, ids: np.ndarray) -> np.ndarray:
    samples = dataset.gather(ids)
    tokens = samples["tokens"].numpy()
    pairs = tokens[:, :-1] * vocab_size + tokens[:, 1:]
    return pairs[samples["scored"].numpy()] if "scored" in samples else pairs.ravel()  # type: ignore[no-any-return]


def _width(dataset: Dataset) -> int:
    return dataset.gather(np.zeros(1, dtype=np.int64))["tokens"].shape[1]
