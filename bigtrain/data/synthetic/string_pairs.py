"""Strings and what a function makes of them: reversed, sorted; or sums and their results. The target follows from the
source, so the best possible loss is 0, and an answer is right or wrong.

Training strings have 1 to `longest` letters, all lengths equally likely; those of validation and test more than half as
many. Which split a string may be in is a hash of the string, so none is in two: a string that was memorised is
never measured.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable

import numpy as np

from bigtrain.data.base import SPLITS, DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.synthetic.config import StringFunction, StringPairsConfig
from bigtrain.data.text.pairs import PairDataset
from bigtrain.data.text.ragged import Ragged
from bigtrain.data.tokenizers.tokenizer import CharTokenizer, Tokenizer
from bigtrain.errors import DataError

_SPLIT_OF_HASH = ("val", "test", *["train"] * 6)  # an eighth of all strings each for validation and test
_BLOCK = 4096  # strings drawn at once

ANSWERS: dict[StringFunction, Callable[[str], str]] = {
    StringFunction.reverse: lambda source: source[::-1],
    StringFunction.sort: lambda source: "".join(sorted(source)),
    StringFunction.addition: lambda source: str(sum(map(int, source.removesuffix("=").split("+")))),
}


class StringPairs(DataModule):
    """Data module `string_pairs`; see `StringPairsConfig`. Raises DataError for a tokenizer of other characters."""

    def __init__(self, config: StringPairsConfig, tokenizer: Tokenizer | None = None):
        letters = "".join(alphabet(config))
        self.tokenizer: Tokenizer = tokenizer or CharTokenizer(letters, end_of_text=True)
        if self.tokenizer.to_json() != CharTokenizer(letters, end_of_text=True).to_json():
            raise DataError.of(
                "DATA-TOKENIZER",
                f"the tokenizer does not have exactly the characters {letters}",
                fix="set data.function and data.letters as they were in the run that it comes from",
            )
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        self._datasets = {}
        for number, (split, size) in enumerate(sizes.items()):
            sources = draw_sources(config, split, size, np.random.default_rng([config.draw_seed, number]))
            answers = [ANSWERS[config.function](source) for source in sources]
            self._datasets[split] = PairDataset(*(Ragged.framed(side, self.tokenizer) for side in (sources, answers)))
        streams = [side.stream for dataset in self._datasets.values() for side in (dataset.source, dataset.target)]
        self.spec = DataSpec(
            kind="pairs",
            fingerprint=fingerprint_of("string_pairs", config.function.value, *streams),
            sizes=sizes,
            vocab_size=self.tokenizer.vocab_size,
            sequence_length=max(int(dataset.lengths.max()) for dataset in self._datasets.values()),
            special_tokens=self.tokenizer.special_ids,
            optimal_loss=0.0,
        )

    def dataset(self, split: str) -> PairDataset:
        return self._datasets[split]


def alphabet(config: StringPairsConfig) -> str:
    """The characters of sources and targets."""
    if config.function is StringFunction.addition:
        return string.digits + "+="
    return string.ascii_lowercase[: config.letters]


def draw_sources(config: StringPairsConfig, split: str, count: int, generator: np.random.Generator) -> list[str]:
    """`count` strings that may be in this split; those of validation and test all different."""
    found: dict[str, None] | list[str] = [] if split == "train" else {}
    while len(found) < count:
        for source in _block(config, 1 if split == "train" else config.longest // 2 + 1, generator):
            if _split_of(source) != split or len(found) == count:
                continue
            if isinstance(found, list):
                found.append(source)
            else:
                found[source] = None
    return list(found)


def _block(config: StringPairsConfig, shortest: int, generator: np.random.Generator) -> list[str]:
    """Random sources, of `shortest` letters at least; of two numbers, one has so many digits."""
    lengths = generator.integers(shortest, config.longest + 1, size=_BLOCK)
    if config.function is StringFunction.addition:
        # The first has so many digits, the second any number of them up to that; then they may change places.
        others = generator.integers(1, lengths + 1)
        swapped = generator.random(_BLOCK) < 0.5
        numbers = zip(_numbers(lengths, generator), _numbers(others, generator), swapped, strict=True)
        return [f"{b}+{a}=" if swap else f"{a}+{b}=" for a, b, swap in numbers]
    letters = np.array(list(alphabet(config)))[generator.integers(config.letters, size=(_BLOCK, config.longest))]
    return ["".join(row[:length]) for row, length in zip(letters.tolist(), lengths.tolist(), strict=True)]


def _numbers(digits: np.ndarray, generator: np.random.Generator) -> list[int]:
    """Numbers of so many digits each, without leading zeros."""
    return generator.integers(np.where(digits == 1, 0, 10 ** (digits - 1)), 10**digits).tolist()


def _split_of(source: str) -> str:
    digest = hashlib.blake2b(source.encode(), digest_size=1, key=b"bigtrain").digest()
    return _SPLIT_OF_HASH[digest[0] % len(_SPLIT_OF_HASH)]
