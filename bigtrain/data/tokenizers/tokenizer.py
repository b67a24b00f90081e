"""Tokenisers: text to ids and back. Saved as tokenizer.json inside every checkpoint.

`byte` needs no fitting and can represent anything; `char` holds the characters of the training split. Special
ids come after the ordinary ones. Tokenisers made of pieces of words are in `subword.py`; reading any of them from JSON:
`tokenizer_file.py`; joining documents into a stream: `data/text/token_stream.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from bigtrain.errors import DataError

MAX_CHARACTERS = 200_000  # Unicode 16 assigns 155,063
_CODE_POINTS = 0x110000
_CHUNK = 1 << 16  # characters a pass: 256 kB of UTF-32 stay in the second-level cache, 2.5 times as fast as one pass
_UNKNOWN_CODE = 0xFFFD
DOCUMENT_BREAK = "\n\n"


class Tokenizer(Protocol):
    """Ids are 0 … vocab_size-1; `end_of_text` separates documents, None where there is only one document.

    `unknown` is the id that stands for whatever has no id of its own; None where nothing is unknown. `special_ids`
    gives the ids by what they are for: "end_of_text", "unknown", "begin", "separator", "mask", "padding", as far
    as there are any.
    """

    special_ids: dict[str, int]
    vocab_size: int
    end_of_text: int | None
    unknown: int | None

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """Ids of the text, no special tokens added. Raises DataError for text that has no ids."""
        ...

    def encode_all(self, texts: Sequence[str], dtype: Any = np.int64) -> Iterator[np.ndarray]:
        """`encode` of each; with a status line where that takes long."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Text of the ids; end_of_text becomes a blank line, a broken UTF-8 sequence or unknown id U+FFFD."""
        ...

    def first_token_bytes(self, text: str) -> int:
        """UTF-8 bytes of the (not empty) text that its first token stands for."""
        ...

    def begins_word(self) -> np.ndarray | None:
        """(vocab_size,) bool: whether a token begins a word, or goes on with one. None: they know no words."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, read back by `tokenizer_from_json`."""
        ...


class ByteTokenizer:
    """UTF-8 bytes: 256 ids, and end_of_text = 256 only where documents have to be kept apart."""

    def __init__(self, end_of_text: bool = False):
        self.end_of_text = 256 if end_of_text else None
        self.unknown: int | None = None
        self.vocab_size = 257 if end_of_text else 256
        self.special_ids = {"end_of_text": 256} if end_of_text else {}

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """See `Tokenizer`. Raises DataError for lone surrogates, which no UTF-8 file can hold."""
        return np.frombuffer(encoded(text, "utf-8"), dtype=np.uint8).astype(dtype)

    def encode_all(self, texts: Sequence[str], dtype: Any = np.int64) -> Iterator[np.ndarray]:
        return (self.encode(text, dtype) for text in texts)

    def decode(self, ids: np.ndarray) -> str:
        pieces = split_at(np.asarray(ids), self.end_of_text)
        # 0xFF never occurs in UTF-8, so an id that is no byte decodes to U+FFFD.
        as_bytes = (np.where((piece >= 0) & (piece < 256), piece, 0xFF).astype(np.uint8) for piece in pieces)
        return DOCUMENT_BREAK.join(piece.tobytes().decode("utf-8", errors="replace") for piece in as_bytes)

    def first_token_bytes(self, text: str) -> int:
        return 1

    def begins_word(self) -> None:
        """See `Tokenizer`."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": "byte", "end_of_text": self.end_of_text is not None}


class CharTokenizer:
    """One id per character of `characters`, in code-point order; then `end_of_text` and `unknown`, if asked
    for.

    With `unknown`, a character that is not among them gets that id, and its identity is lost; without, it is
    a DataError.
    """

    def __init__(self, characters: str, end_of_text: bool = False, unknown: bool = False):
        self.characters = "".join(sorted(set(characters)))
        size = len(self.characters)
        self.end_of_text = size if end_of_text else None
        self.unknown = size + end_of_text if unknown else None
        self.vocab_size = size + end_of_text + unknown
        ids = {"end_of_text": self.end_of_text, "unknown": self.unknown}
        self.special_ids = {name: number for name, number in ids.items() if number is not None}
        codes = _code_points(self.characters)
        self._missing = self.vocab_size if self.unknown is None else self.unknown
        self._ids = np.full(_CODE_POINTS, self._missing, dtype=np.int32)
        self._ids[codes] = np.arange(size, dtype=np.int32)
        # ASCII characters sort first, so their ids are below 128 and bytes.translate can map them; 255 is
        # missing.
        ascii_ids = self._ids[:128]
        self._ascii_ids = np.where(ascii_ids == self._missing, 255, ascii_ids).astype(np.uint8).tobytes().ljust(256)
        specials = [_UNKNOWN_CODE] * (1 + end_of_text + unknown)  # the last stands for ids that don't exist
        self._codes = np.array([*codes, *specials], dtype="<i4")

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """See `Tokenizer`. Raises DataError for a character without an id."""
        result = np.empty(len(text), dtype=dtype)
        for start in range(0, len(text), _CHUNK):
            chunk = text[start : start + _CHUNK]
            result[start : start + len(chunk)] = self._encode_chunk(chunk)
        return result

    def encode_all(self, texts: Sequence[str], dtype: Any = np.int64) -> Iterator[np.ndarray]:
        return (self.encode(text, dtype) for text in texts)

    def _encode_chunk(self, chunk: str) -> np.ndarray:
        if chunk.isascii():
            mapped = chunk.encode("ascii").translate(self._ascii_ids)
            if b"\xff" not in mapped:
                return np.frombuffer(mapped, dtype=np.uint8)
        codes = _code_points(chunk)
        ids = np.take(self._ids, codes, mode="wrap")  # codes are below 0x110000: wrap skips a slow check
        if self.unknown is None and (ids == self._missing).any():
            raise _unknown_character(chr(codes[np.argmax(ids == self._missing)]))
        return ids

    def decode(self, ids: np.ndarray) -> str:
        last = len(self._codes) - 1
        pieces = (np.asarray(piece, dtype=np.int64) for piece in split_at(np.asarray(ids), self.end_of_text))
        known = (np.where((piece >= 0) & (piece <= last), piece, last) for piece in pieces)
        return DOCUMENT_BREAK.join(self._codes[piece].tobytes().decode("utf-32-le") for piece in known)

    def first_token_bytes(self, text: str) -> int:
        return len(text[0].encode())

    def begins_word(self) -> None:
        """See `Tokenizer`."""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "char",
            "characters": self.characters,
            "end_of_text": self.end_of_text is not None,
            "unknown": self.unknown is not None,
        }


def framing_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """What stands before and after a text that is read for itself: [CLS] and [SEP], or else end_of_text for both.

    Raises DataError for a tokeniser that has nothing of the kind.
    """
    special = tokenizer.special_ids
    before, after = (special.get(name, special.get("end_of_text")) for name in ("begin", "separator"))
    if before is None or after is None:
        raise DataError.of(
            "DATA-TOKENIZER",
            "the tokenizer has no special token to mark where a text begins and ends",
            cause="it was fitted to a single document, which nothing had to be kept apart from",
            fix="fit it to several documents, or use another one",
        )
    return before, after


def characters_of(texts: Iterable[str]) -> str:
    """The distinct characters of the texts, in code-point order."""
    seen = np.zeros(_CODE_POINTS, dtype=bool)
    for text in texts:
        for start in range(0, len(text), _CHUNK):
            seen[_code_points(text[start : start + _CHUNK])] = True
    return "".join(map(chr, np.flatnonzero(seen)))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(encoded(text, "utf-32-le"), dtype="<i4")


def encoded(text: str, encoding: str) -> bytes:
    """`text.encode(encoding)`. Raises DataError for lone surrogates."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError.of(
            "DATA-TEXT",
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}",
            cause="half of a UTF-16 pair: the text was not valid Unicode where it came from",
            fix="save it as UTF-8, or remove the character",
        ) from None


def split_at(ids: np.ndarray, separator: int | None) -> Iterator[np.ndarray]:
    """What stands between the separators, one piece more than there are of them."""
    ids = ids.reshape(-1)
    if separator is None:
        yield ids
        return
    start = 0
    for stop in np.flatnonzero(ids == separator).tolist():
        yield ids[start:stop]
        start = stop + 1
    yield ids[start:]


def _unknown_character(character: str) -> DataError:
    return DataError.of(
        "DATA-CHARACTER",
        f"the tokenizer has no id for the character {character!r} (U+{ord(character):04X})",
        cause="a char tokenizer knows the characters of the text it was trained on, and no others",
        fix="leave the character out, or train with data.tokenizer=byte, which can represent any text",
    )
