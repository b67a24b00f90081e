"""Text from a random Markov chain, whose best possible loss is known exactly.

Each of the V**k contexts has its own distribution of the next symbol, drawn from a Dirichlet distribution.
Every window starts in the stationary distribution and is drawn by itself, so no window crosses a seam, and a
model that knows the chain has an expected loss of exactly its entropy rate (Shannon 1948; Cover & Thomas,
theorem 4.2.4).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.data.text.token_stream import token_dtype
from bigtrain.data.tokenizers.tokenizer import CharTokenizer, Tokenizer
from bigtrain.errors import DataError

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FIRST_IDEOGRAPH = 0x4E00  # beyond 26 symbols: one CJK ideograph each, so that text and tokens stay one to one
_TOLERANCE = 1e-13
_LEAST_ITERATIONS, _MOST_ITERATIONS = 1_000, 300_000
_WORK = 300_000_000  # multiplications that power iteration may take: a second or three


class Markov(DataModule):
    """Data module `markov`. Targets with fewer than k tokens before them in their window are not scored."""

    def __init__(self, config: MarkovConfig, tokenizer: Tokenizer | None = None):
        size, order = config.vocab_size, config.order
        letters = _letters(size)
        self.tokenizer: Tokenizer = tokenizer or CharTokenizer(letters)
        if self.tokenizer.vocab_size != size:
            raise DataError.of(
                "DATA-TOKENIZER",
                f"the tokenizer has {self.tokenizer.vocab_size} symbols, data.vocab_size is {size}",
                fix=f"set data.vocab_size={self.tokenizer.vocab_size}",
            )
        chain = transition_probabilities(config)
        stationary = stationary_distribution(chain, size)
        counts = {"train": config.train_tokens, "val": config.eval_tokens, "test": config.eval_tokens}
        length = config.sequence_length
        self._windows = {
            split: MarkovWindows(
                sample_windows(
                    chain,
                    stationary,
                    order,
                    (tokens // length, length + 1),
                    np.random.default_rng([config.chain_seed, number]),
                ),
                order,
            )
            for number, (split, tokens) in enumerate(counts.items(), start=1)
        }
        bytes_per_token = float(len(letters[0].encode()))
        self.spec = DataSpec(
            kind="text",
            fingerprint=fingerprint_of("markov", chain, *(windows.tokens for windows in self._windows.values())),
            sizes={split: len(windows) for split, windows in self._windows.items()},
            vocab_size=size,
            sequence_length=length,
            bytes_per_token=dict.fromkeys(counts, bytes_per_token),
            optimal_loss=entropy_rate(chain, stationary),
        )

    def dataset(self, split: str) -> MarkovWindows:
        return self._windows[split]


class MarkovWindows(Dataset):
    """Independent windows (N, T+1) of a chain of order k; `gather` as in `data/base.py`."""

    def __init__(self, tokens: np.ndarray, order: int):
        self.tokens = tokens
        self._scored = torch.arange(tokens.shape[1] - 1) >= order - 1

    def __len__(self) -> int:
        return len(self.tokens)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.tokens[ids].astype(np.int64))
        return {"tokens": tokens, "scored": self._scored.expand(len(tokens), -1).clone()}


def _letters(size: int) -> str:
    if size <= len(_LETTERS):
        return _LETTERS[:size]
    return "".join(map(chr, range(_FIRST_IDEOGRAPH, _FIRST_IDEOGRAPH + size)))


def transition_probabilities(config: MarkovConfig) -> np.ndarray:
    """(V**k, V) float64; the row of context (s1 … sk), oldest first, is Σ s_i V**(k-i)."""
    generator = np.random.default_rng([config.chain_seed, 0])
    size = config.vocab_size
    return generator.dirichlet(np.full(size, config.concentration), size=size**config.order)


def stationary_distribution(chain: np.ndarray, vocab_size: int) -> np.ndarray:
    """(V**k,): the distribution of contexts that one more symbol leaves as it is, by power iteration.

    Half of each step stays where it was, which keeps the fixed points and ends any cycling. The start is
    uniform, so for a chain that falls apart the limit is still stationary. Raises DataError if it is not
    reached.
    """
    contexts = len(chain)
    stationary = np.full(contexts, 1 / contexts)
    by_oldest = chain.reshape(vocab_size, contexts // vocab_size, vocab_size)
    iterations = min(max(_LEAST_ITERATIONS, _WORK // chain.size), _MOST_ITERATIONS)
    for _ in range(iterations):
        moved = np.einsum("am,ams->ms", stationary.reshape(vocab_size, -1), by_oldest).reshape(-1)
        change = np.abs(moved - stationary).sum()
        stationary = (moved + stationary) / 2
        stationary /= stationary.sum()
        if change < _TOLERANCE * contexts**0.5:
            return stationary
    raise DataError.of(
        "DATA-MARKOV",
        f"this chain has not settled after {iterations} steps, so its entropy rate is not known",
        cause="a small data.concentration makes chains that are nearly deterministic",
        fix="raise data.concentration, or choose another data.chain_seed",
    )


def entropy_rate(chain: np.ndarray, stationary: np.ndarray) -> float:
    """Nats per symbol: the rows' entropies, weighted by how often their contexts occur."""
    log_chain = np.log(chain, where=chain > 0, out=np.zeros_like(chain))
    return float(-(stationary @ (chain * log_chain).sum(axis=1)))


def sample_windows(
    chain: np.ndarray,
    stationary: np.ndarray,
    order: int,
    shape: tuple[int, int],
    generator: np.random.Generator,
) -> np.ndarray:
    """Windows of `shape` (N, T+1), all drawn at once, symbol after symbol."""
    contexts, vocab_size = chain.shape
    windows = np.empty(shape, dtype=token_dtype(vocab_size))
    context = _draw(np.cumsum(stationary)[None], np.zeros(shape[0], dtype=np.int64), generator)
    rest = context
    for position in reversed(range(order)):
        rest, windows[:, position] = np.divmod(rest, vocab_size)
    cumulative = np.cumsum(chain, axis=1)
    for position in range(order, shape[1]):
        symbol = _draw(cumulative, context, generator)
        windows[:, position] = symbol
        context = (context * vocab_size + symbol) % contexts
    return windows


def _draw(cumulative: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One index per element of `rows`, from that row's cumulative probabilities: bisection of all at once."""
    chances = generator.random(len(rows)) * cumulative[rows, -1]  # the last is 1 but for rounding
    low, high = np.zeros_like(rows), np.full_like(rows, cumulative.shape[1] - 1)
    for _ in range((cumulative.shape[1] - 1).bit_length()):
        middle = (low + high) // 2
        above = chances >= cumulative[rows, middle]
        low, high = np.where(above, middle + 1, low), np.where(above, high, middle)
    return low
