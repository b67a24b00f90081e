"""The data of a plan: a corpus that takes long to tokenise stands for itself by its size; all other data is read.

A training prepares a corpus once and keeps it in the user's cache folder; a plan of the same corpus must not wait for
that. Its number of tokens is then an estimate, and nothing else of the plan depends on it but the length of an epoch.
"""

from __future__ import annotations

import numpy as np

from bigtrain.build import build_data
from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.data.text.config import LEARNT_VOCAB_SIZE, TextCorpusConfig
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.text.text_corpus import find_files
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer

LARGE = 64 << 20  # bytes of files: tokenising them takes seconds
_BYTES_PER_TOKEN = {TokenizerKind.byte: 1.0, TokenizerKind.char: 1.0, TokenizerKind.word: 5.5}
_BYTES_PER_PIECE = 3.7  # of English, with vocabularies of 4,096 to 50,257
_COMPRESSED = 3.0


class SizedText(DataModule):
    """Windows of a text of which only the size is known: all tokens are 0."""

    def __init__(self, tokens: dict[str, int], vocab_size: int, sequence_length: int, tokenizer: Tokenizer | None):
        self.tokenizer = tokenizer
        self._windows = {
            split: TokenWindows(np.broadcast_to(np.zeros((), np.uint32), count), sequence_length, split)
            for split, count in tokens.items()
            if count > 1
        }
        sizes = {split: len(windows) for split, windows in self._windows.items()}
        special = {"end_of_text": vocab_size - 1} if tokenizer is None else dict(tokenizer.special_ids)
        self.spec = DataSpec(
            "text",
            "",
            sizes,
            vocab_size=vocab_size,
            sequence_length=sequence_length,
            special_tokens=special,
        )

    def dataset(self, split: str) -> Dataset:
        return self._windows[split]


def planned_data(config: RunConfig) -> tuple[DataModule, str]:
    """The data, and a sentence on what of it is an estimate, or ""."""
    data = config.data
    if not isinstance(data, TextCorpusConfig):
        return build_data(config), ""
    paths = {name: getattr(data, name) for name in ("path", "train_path")}
    files = [file for name, path in paths.items() if path for file in find_files(path, f"data.{name}", data.cache_dir)]
    size = sum(file.stat().st_size * (_COMPRESSED if file.suffix in (".gz", ".parquet") else 1) for file in files)
    if size < LARGE:
        return build_data(config), ""
    tokenizer = read_tokenizer(data.tokenizer_path) if data.tokenizer_path else None
    if tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    elif data.tokenizer in (TokenizerKind.byte, TokenizerKind.char):
        vocab_size = 257
    else:
        vocab_size = data.vocab_size or LEARNT_VOCAB_SIZE
    total = size / _BYTES_PER_TOKEN.get(data.tokenizer, _BYTES_PER_PIECE)
    held_out = 0.1 if data.split == "nanogpt" or data.train_path else 1 - float(data.split.split(",")[0])
    tokens = {"train": int(total * (1 - held_out)), "val": int(total * held_out)}
    said = f"the corpus is not read: about {total:,.0f} tokens, by the {size:,.0f} bytes of its files"
    return SizedText(tokens, vocab_size, data.sequence_length, tokenizer), said
