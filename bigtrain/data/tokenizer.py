"""Tokenisers: text to ids and back. Saved as tokenizer.json inside every checkpoint.

`byte` needs no fitting and can represent anything; `char` holds the characters of the training split.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Tokenizer(Protocol):
    """Ids are 0 … vocab_size-1; `end_of_text` separates documents, None where there is only one document."""

    vocab_size: int
    end_of_text: int | None

    def encode(self, text: str) -> np.ndarray:
        """Ids of the text, int64, no special tokens added."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Text of the ids; end_of_text becomes a blank line, a broken UTF-8 sequence U+FFFD."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, read back by `tokenizer_from_json`."""
        ...
