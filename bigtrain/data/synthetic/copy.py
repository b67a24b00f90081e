"""Text to be copied: [random string][separator][the same string through a noisy channel]; the optimum is exact.

A sample is one window of T + 1 tokens, T/2 = L symbols, the separator, L symbols; so T inputs and T targets. Only the L
targets of the copy are scored: the string before it is uniform and can't be predicted, and the separator always stands
in the same place. The symbols of the string are independent and so are the replacements, so a model that knows the
string has nothing to gain from the rest of the copy: its expected loss is the entropy of the channel's output given its
input. Whoever does not look back L tokens pays ln(V-1), for the V-1 symbols beside the separator.
"""

from __future__ import annotations

import math
import string

import numpy as np
import torch
from torch import Tensor

from bigtrain.data.base import SPLITS, DataModule, Dataset, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.synthetic.config import CopyConfig
from bigtrain.data.tokenizers.tokenizer import CharTokenizer, Tokenizer
from bigtrain.errors import DataError

SEPARATOR = "|"


class NoisyCopy(DataModule):
    """Data module `copy`; see `CopyConfig`. Raises DataError for a checkpoint's tokenizer of other symbols."""

    def __init__(self, config: CopyConfig, tokenizer: Tokenizer | None = None):
        letters = string.ascii_lowercase[: config.vocab_size - 1]
        self.tokenizer: Tokenizer = tokenizer or CharTokenizer(letters + SEPARATOR)
        if self.tokenizer.vocab_size != config.vocab_size:
            raise DataError.of(
                "DATA-TOKENIZER",
                f"the tokenizer has {self.tokenizer.vocab_size} symbols, data.vocab_size is {config.vocab_size}",
                fix=f"set data.vocab_size={self.tokenizer.vocab_size}",
            )
        ids = self.tokenizer.encode(letters + SEPARATOR).astype(np.uint8)
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        self._windows = {
            split: CopyWindows(ids[sample_windows(config, size, np.random.default_rng([config.draw_seed, number]))])
            for number, (split, size) in enumerate(sizes.items())
        }
        self.spec = DataSpec(
            kind="text",
            fingerprint=fingerprint_of("copy", config.noise, *(windows.tokens for windows in self._windows.values())),
            sizes=sizes,
            vocab_size=config.vocab_size,
            sequence_length=config.sequence_length,
            bytes_per_token=dict.fromkeys(sizes, 1.0),
            optimal_loss=channel_entropy(config.vocab_size - 1, config.noise),
        )

    def dataset(self, split: str) -> CopyWindows:
        return self._windows[split]


class CopyWindows(Dataset):
    """Independent windows (N, 2 L + 1) of which the last L tokens are scored; `gather` as in `data/base.py`."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens
        self._scored = torch.arange(tokens.shape[1] - 1) >= tokens.shape[1] // 2

    def __len__(self) -> int:
        return len(self.tokens)

    def gather(self, ids: np.ndarray) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.tokens[ids].astype(np.int64))
        return {"tokens": tokens, "scored": self._scored.expand(len(tokens), -1).clone()}


def sample_windows(config: CopyConfig, count: int, generator: np.random.Generator) -> np.ndarray:
    """(count, T+1) uint8 symbols from 0 to V-2, and V-1 for the separator in the middle."""
    symbols, length = config.vocab_size - 1, config.sequence_length // 2
    source = generator.integers(symbols, size=(count, length), dtype=np.uint8)
    replaced = generator.random((count, length)) < config.noise
    copied = np.where(replaced, generator.integers(symbols, size=(count, length), dtype=np.uint8), source)
    return np.concatenate([source, np.full((count, 1), symbols, dtype=np.uint8), copied], axis=1)


def channel_entropy(symbols: int, noise: float) -> float:
    """Nats per copied symbol: it is kept with probability 1 - noise, else one of all `symbols`, each as likely."""
    other = noise / symbols
    same = 1 - noise + other
    return -same * math.log(same) - ((symbols - 1) * other * math.log(other) if other else 0.0)
