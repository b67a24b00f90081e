"""Subword tokenisers: byte-level BPE, WordPiece and their like, run by Hugging Face's `tokenizers`.

A long text is encoded in pieces, on all cores, to the same ids as in one go: it is cut only where the tokeniser
has a border anyway. What a definition may hold: `data/tokenizers/subword_definition.py`; training one:
`data/tokenizers/bpe.py`; reading one from a file: `data/tokenizers/tokenizer_file.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bigtrain.data.tokenizers.subword_definition import (
    checked_definition,
    components,
    model_vocabulary,
    unusable,
    vocabulary,
)
from bigtrain.data.tokenizers.tokenizer import DOCUMENT_BREAK, encoded, split_at
from bigtrain.errors import DataError
from bigtrain.tracking.status_line import status_line

if TYPE_CHECKING:
    import tokenizers

PIECE_CHARACTERS = 20_000
LONGEST_PIECE = 1_000_000  # the regular expressions give up ("retry-limit-in-match") on 10 million spaces in a row
_BATCH_CHARACTERS = max(1 << 20, 4 * PIECE_CHARACTERS * (os.cpu_count() or 1))  # four pieces for each core
# Between two visible characters, before a space or after a single line end. Next to such a place there is nothing
# that a normaliser might remove, and no combining mark that it might join to its neighbour.
_BORDER = re.compile(r"(?<=[\w!-~])(?= [\w!-~])|(?<=[\w!-~]\n)(?=\w)")
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
# How byte-level BPE writes the 256 bytes: a printable one as itself, another as the next character from U+0100 on.
BYTE_CHARACTERS = [*map(chr, _PRINTABLE), *(chr(0x100 + number) for number in range(256 - len(_PRINTABLE)))]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES_IN_ORDER = [character for _, character in sorted(zip([*_PRINTABLE, *_OTHERS], BYTE_CHARACTERS, strict=True))]
_BEFORE_WORDS = ("Ġ", "Ċ", "č", "ĉ", "▁")  # space, line ends and tab of byte-level BPE; SentencePiece's space
_FALLBACK_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# What a special token is for, by the names that models give it: BERT's, RoBERTa's, Llama's.
_ROLES = {
    "begin": ("[CLS]", "<s>", "<|begin_of_text|>", "<bos>"),
    "separator": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "padding": ("[PAD]", "<pad>"),
}

_THREADS = "TOKENIZERS_PARALLELISM"
_USERS_THREADS = os.environ.get(_THREADS)
_PROCESS = os.getpid()


class SubwordTokenizer:
    """A definition as in a tokenizer.json, put to work; `end_of_text` names one of its special tokens, or is None.

    What looks like a special token inside a text is ordinary text. Raises DataError, naming `source`, for a
    definition that is not allowed or does not fit together.
    """

    def __init__(self, definition: Any, end_of_text: str | None, source: str = "tokenizer.json"):
        self._definition = checked_definition(definition, source)
        self._end_of_text = end_of_text
        self._rust = _load(self._definition, source)
        special = {token["content"]: token["id"] for token in self._definition["added_tokens"] if token["special"]}
        if end_of_text is not None and end_of_text not in special:
            raise unusable(source, "its end_of_text is not among its special tokens")
        self.vocab_size = len(vocabulary(self._definition))
        self.end_of_text: int | None = None if end_of_text is None else special[end_of_text]
        self.unknown: int | None = _unknown_id(self._definition, source)
        ids = {"end_of_text": self.end_of_text, "unknown": self.unknown}
        ids |= {
            role: next((special[name] for name in names if name in special), None) for role, names in _ROLES.items()
        }
        self.special_ids = {role: number for role, number in ids.items() if number is not None}
        self._has_borders = _has_borders(self._definition)

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """See `Tokenizer`. Raises DataError for lone surrogates, which no UTF-8 file can hold."""
        return next(self._encode_all([text], dtype, lambda characters: None))

    def encode_all(self, texts: Sequence[str], dtype: Any = np.int64) -> Iterator[np.ndarray]:
        total = max(1, sum(map(len, texts)))
        with status_line("Tokenising") as report:
            yield from self._encode_all(texts, dtype, lambda characters: report(characters / total))

    def _encode_all(self, texts: Iterable[str], dtype: Any, report: Callable[[int], None]) -> Iterator[np.ndarray]:
        """`report` is told how many characters are done."""
        pieces = (piece for text in texts for piece in (_pieces(text) if self._has_borders else [(text, True)]))
        done, ids = 0, []
        for batch in _batches(pieces):
            for (piece, is_last), encoding in zip(batch, self._encode_batch([text for text, _ in batch]), strict=True):
                done += len(piece)
                ids.append(np.array(encoding.ids, dtype=dtype))
                if is_last:
                    yield np.concatenate(ids)
                    ids = []
            report(done)

    def _encode_batch(self, texts: list[str]) -> list[tokenizers.Encoding]:
        try:
            with all_cores(), _panics_said():
                return self._rust.encode_batch_fast(texts, add_special_tokens=False)  # type: ignore[no-any-return]
        except Exception:
            for text in texts:
                encoded(text, "utf-8")  # says where the lone surrogate is
                self._refuse_unknown_words(text)
            raise

    def _refuse_unknown_words(self, text: str) -> None:
        """Of a WordLevel that has no token for what is unknown, and then stops without saying at which word."""
        if self._definition["model"]["type"] != "WordLevel" or self.unknown is not None:
            return
        normal = self._rust.normalizer.normalize_str(text) if self._rust.normalizer else text
        pieces = self._rust.pre_tokenizer.pre_tokenize_str(normal) if self._rust.pre_tokenizer else [(normal, (0, 0))]
        for word, _ in pieces:
            if self._rust.token_to_id(word) is None:
                raise DataError.of(
                    "DATA-CHARACTER",
                    f"the tokenizer has no token for {word[:40]!r}",
                    cause="it knows the words, or characters, of the text that it was made from, and no others",
                    fix="leave it out, or use data.tokenizer=byte or bpe, which can represent any text",
                )

    def decode(self, ids: np.ndarray) -> str:
        return DOCUMENT_BREAK.join(self._decode(piece) for piece in split_at(np.asarray(ids), self.end_of_text))

    def _decode(self, ids: np.ndarray) -> str:
        strange = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))
        first, *others = np.split(ids, strange)
        known = [first, *(part[1:] for part in others)]
        return "\ufffd".join(self._rust.decode(part.tolist(), skip_special_tokens=False) for part in known)

    def first_token_bytes(self, text: str) -> int:
        """See `Tokenizer`. Of a character that several tokens share, a byte-level one stands for its own bytes."""
        encoding = self._rust.encode(next(_pieces(text))[0], add_special_tokens=False)
        if not encoding.ids:
            return 0
        covered = len(text[: encoding.offsets[0][1]].encode())
        return min(covered, len(encoding.tokens[0])) if _is_byte_level(self._definition) else covered

    def begins_word(self) -> np.ndarray | None:
        """See `Tokenizer`. Where a word begins, WordPiece writes no "##"; the others a space, or a line end. WordLevel
        knows whole words only.
        """
        model, vocab = self._definition["model"], vocabulary(self._definition)
        if model["type"] == "WordLevel":
            return np.ones(len(vocab), dtype=bool)
        tokens = sorted(vocab, key=vocab.__getitem__)
        prefix = model.get("continuing_subword_prefix")
        if prefix:
            return np.array([not token.startswith(prefix) for token in tokens])
        begins = np.array([token.startswith(_BEFORE_WORDS) for token in tokens])
        return begins if begins.any() else None

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`. The definition is a tokenizer.json that `tokenizers` reads."""
        return {"kind": "subword", "end_of_text": self._end_of_text, "definition": self._definition}


def learn(rust: Any, trainer: Any, documents: Sequence[str]) -> None:
    """Trains a tokenizer of Hugging Face's library on the documents, in pieces, with progress."""
    total = sum(map(len, documents))

    with status_line("Learning a vocabulary") as report, all_cores():

        def reported() -> Iterator[str]:
            done = 0
            for piece in pieces_of(documents):
                yield piece
                done += len(piece)
                report(done / total)

        rust.train_from_iterator(reported(), trainer)


def pieces_of(texts: Iterable[str]) -> Iterator[str]:
    """The texts, long ones cut at borders into pieces of about `PIECE_CHARACTERS`; joined, they are the texts."""
    return (piece for text in texts for piece, _ in _pieces(text))


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets `tokenizers` use its threads inside; outside, and in forked processes, they are off: a fork has none of
    them, and would wait for them for ever. A user's own TOKENIZERS_PARALLELISM is left as it is.
    """
    if _USERS_THREADS is None:
        os.environ[_THREADS] = "true" if os.getpid() == _PROCESS else "false"
    try:
        yield
    finally:
        if _USERS_THREADS is None:
            os.environ[_THREADS] = "false"


@contextmanager
def _panics_said() -> Iterator[None]:
    """A panic of the library's, which is no Exception to Python, becomes a DataError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError.of(
            "DATA-TOKENIZER",
            f"the tokenizer gives up on this text: {error}",
            fix="look for very long runs of one character in it, or use data.tokenizer=byte",
        ) from None


def _load(definition: dict[str, Any], source: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    try:
        with _panics_said():
            rust = Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises nothing narrower
        raise unusable(source, f"it does not fit together ({str(error)[:200]})") from None
    rust.encode_special_tokens = True
    if any(rust.token_to_id(token["content"]) != token["id"] for token in definition["added_tokens"]):
        raise unusable(source, "its added tokens do not get the ids that it gives them")
    return rust


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Pieces of a text, each with whether it is the last; one, perhaps empty, at least."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        border = _BORDER.search(text, start + PIECE_CHARACTERS, start + LONGEST_PIECE)
        stop = border.start() if border else start + LONGEST_PIECE
        if stop >= len(text):
            break
        yield text[start:stop], False
        start = stop
    yield text[start:], True


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _is_byte_level(definition: dict[str, Any]) -> bool:
    return any(component["type"] == "ByteLevel" for component in components(definition, "pre_tokenizer"))


def _unknown_id(definition: dict[str, Any], source: str) -> int | None:
    model, vocab = definition["model"], model_vocabulary(definition)
    unknown = model.get("unk_token")
    if model["type"] == "Unigram":
        unknown = next((token for token, number in vocab.items() if number == model.get("unk_id")), None)
    if model["type"] in ("BPE", "Unigram"):
        alphabet = BYTE_CHARACTERS if _is_byte_level(definition) else _FALLBACK_BYTES
        has_every_byte = vocab.keys() >= set(alphabet)
        if has_every_byte and (_is_byte_level(definition) or model.get("byte_fallback")):
            return None
    if unknown not in vocab:
        if model["type"] == "WordLevel":
            return None  # it then refuses texts with other words
        raise unusable(source, "it would drop, without a trace, what its vocabulary can't represent")
    return vocab[unknown]


def _has_borders(definition: dict[str, Any]) -> bool:
    """Whether this tokeniser, whatever the text, treats what is before and after a `_BORDER` apart.

    So it is if the first thing to split the text has a border there and no added token reaches over it. True of
    GPT-2, BERT, Llama 3, Qwen 2 and what `data/tokenizers/bpe.py` trains; not of SentencePiece's, which mark the
    beginning of a text.
    """
    splitters = [one for one in components(definition, "pre_tokenizer") if one["type"] != "Digits"]
    marks_the_beginning = any(one.get("prepend_scheme") == "first" for one in splitters)
    # Special tokens are not looked for in a text; others are, before anything else is done to it.
    sought = [token for token in definition["added_tokens"] if not token["special"]]
    if (
        not splitters
        or marks_the_beginning
        or any(one["lstrip"] or one["rstrip"] or re.search(r"\s", one["content"]) for one in sought)
    ):
        return False
    first = splitters[0]
    drops_spaces = first["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
    by_pattern = (
        first["type"] == "Split"
        and "Regex" in first["pattern"]
        and (first["behavior"], first["invert"]) in (("Isolated", False), ("Removed", True))
    )
    byte_level = first["type"] == "ByteLevel" and first.get("use_regex", True) and not first["add_prefix_space"]
    normalizers = {one["type"] for one in components(definition, "normalizer")}
    plain = normalizers <= {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
    return (plain and (by_pattern or byte_level)) or (drops_spaces and not normalizers & {"Prepend", "Replace"})
