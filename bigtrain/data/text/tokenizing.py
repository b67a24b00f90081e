"""The tokenizer of data made of text: a checkpoint's own, one from a file, or one fitted to the training split; and how
prepared data is found in the cache by it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bigtrain.data.cache import Prepared, cache_root, find, fingerprint_of, load_or_build
from bigtrain.data.text.config import LEARNT, LEARNT_VOCAB_SIZE, TokenizedConfig
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, characters_of
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer
from bigtrain.data.tokenizers.wordlevel import train_wordlevel
from bigtrain.data.tokenizers.wordpiece import train_wordpiece

Documents = list[str]


def given_tokenizer(config: TokenizedConfig, tokenizer: Tokenizer | None) -> Tokenizer | None:
    """The checkpoint's, or the one that the settings name a file of; None where one has to be fitted."""
    if tokenizer is not None or config.tokenizer is not TokenizerKind.file:
        return tokenizer
    assert config.tokenizer_path is not None  # TokenizedConfig.problems
    return read_tokenizer(config.tokenizer_path)


def find_or_prepare(
    kind: str,
    config: TokenizedConfig,
    source: Any,
    prepare: Callable[[Tokenizer | None], Prepared],
    tokenizer: Tokenizer | None,
) -> Prepared:
    """What `prepare` makes of the `source` with the given tokenizer, or with one that it fits: from the cache, if it is
    there. `source` names everything else that it depends on; meta["tokenizer"] is the tokenizer's JSON.
    """
    root = cache_root(config.cache_dir)
    key = fingerprint_of(source, config.tokenizer.value, _learnt_size(config))
    if tokenizer is not None:
        # A run that is resumed or evaluated brings the tokenizer that was fitted to this very text.
        fitted = find(root, kind, key)
        if fitted is not None and fitted.meta["tokenizer"] == tokenizer.to_json():
            return fitted
        key = fingerprint_of(source, tokenizer.to_json())
    return load_or_build(root, kind, key, lambda: prepare(tokenizer))


def fitted_to(config: TokenizedConfig, fits: bool) -> str:
    """A sentence: which texts the tokenizer was made from, as far as that can be known. `fits`: no checkpoint brought
    it.
    """
    kind = config.tokenizer
    if not fits:
        return "it came with a checkpoint: fitted to what that was trained on"
    if kind is TokenizerKind.file:
        return f"{config.tokenizer_path} does not say which texts it was fitted to"
    if kind is TokenizerKind.byte:
        return "bytes: fitted to nothing"
    return f"{kind.value}, fitted to the training split only"


def fit_tokenizer(config: TokenizedConfig, splits: dict[str, Documents]) -> Tokenizer:
    """To the training split. Bytes, characters, bpe and words have an end_of_text only where something has to be kept
    apart; characters an `unknown` only where val or test need it.
    """
    several = any(len(documents) > 1 for documents in splits.values())
    is_char = config.tokenizer is TokenizerKind.char
    unknown = is_char and bool(_other_characters(characters_of(splits["train"]), splits))
    return fit_to_texts(config, splits["train"], end_of_text=several, unknown=unknown)


def fit_to_texts(config: TokenizedConfig, texts: Documents, *, end_of_text: bool, unknown: bool) -> Tokenizer:
    """To these texts. `unknown`: whether a char tokenizer has an id for characters that are not in them."""
    if config.tokenizer is TokenizerKind.byte:
        return ByteTokenizer(end_of_text)
    if config.tokenizer is TokenizerKind.bpe:
        return train_bpe(texts, _learnt_size(config), end_of_text)
    if config.tokenizer is TokenizerKind.wordpiece:
        return train_wordpiece(texts, _learnt_size(config))
    if config.tokenizer is TokenizerKind.word:
        return train_wordlevel(texts, _learnt_size(config), end_of_text)
    return CharTokenizer(characters_of(texts), end_of_text, unknown)


def unknown_tokens(
    splits: dict[str, Documents], streams: dict[str, np.ndarray], tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """Of each split that has unknown tokens: their share of its tokens, and, where they are characters, which."""
    if tokenizer.unknown is None:
        return {}
    characters = _other_characters(tokenizer.characters, splits) if isinstance(tokenizer, CharTokenizer) else {}
    shares = {split: float(np.mean(stream == tokenizer.unknown)) for split, stream in streams.items()}
    return {
        split: {"share": share, "characters": characters.get(split, "")} for split, share in shares.items() if share > 0
    }


def warn_of_unknown(unknown: dict[str, dict[str, Any]], tokenizer: Tokenizer) -> None:
    """Of what a model with this tokenizer need not predict: its figures look better for it. See `unknown_tokens`."""
    if not unknown:
        return
    if isinstance(tokenizer, CharTokenizer):
        shown = " ".join(sorted({character for found in unknown.values() for character in found["characters"]})[:20])
        what = f"characters of {' and '.join(unknown)} never occur in train: {shown}"
    else:
        shares = " and ".join(f"{found['share']:.2%} of the tokens of {split}" for split, found in unknown.items())
        what = f"the tokenizer has no token for part of the text: {shares} are unknown"
    warnings.warn(
        f"{what}. All count as one unknown token, so losses there are not comparable with other tokenizers; "
        "data.tokenizer=byte has no unknown characters.",
        stacklevel=3,
    )


def warn_of_small_vocabulary(config: TokenizedConfig, tokenizer: Tokenizer) -> None:
    """Where the text holds too few patterns for the vocabulary that was asked for."""
    if config.tokenizer in LEARNT and tokenizer.vocab_size < _learnt_size(config):
        what = "words" if config.tokenizer is TokenizerKind.word else "pairs of tokens"
        warnings.warn(
            f"the training text gives a vocabulary of {tokenizer.vocab_size:,} tokens, not {_learnt_size(config):,}: "
            f"no more {what} repeat in it. data.vocab_size={tokenizer.vocab_size} says the same.",
            stacklevel=3,
        )


def _learnt_size(config: TokenizedConfig) -> int:
    return config.vocab_size or LEARNT_VOCAB_SIZE


def _other_characters(known: str, splits: dict[str, Documents]) -> dict[str, str]:
    found = {split: "".join(sorted(set(characters_of(splits[split])) - set(known))) for split in splits}
    return {split: characters for split, characters in found.items() if characters}
