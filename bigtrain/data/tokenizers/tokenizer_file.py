"""Tokenisers from files: what our checkpoints hold, and the tokenizer.json or vocab.txt of Hugging Face's models.

Either may come from a stranger: sizes are bounded before anything is parsed, and every part is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from bigtrain.data.tokenizers.bpe import END_OF_TEXT
from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.subword_definition import checked_definition, model_vocabulary, unusable, vocabulary
from bigtrain.data.tokenizers.tokenizer import MAX_CHARACTERS, ByteTokenizer, CharTokenizer, Tokenizer
from bigtrain.data.tokenizers.wordpiece import is_lowercase, vocabulary_of, wordpiece_definition
from bigtrain.errors import DataError

MAX_FILE_BYTES = 20 << 20  # Llama 3's has 17 MB, GPT-2's 1.4 MB
# An empty list is 3 bytes of JSON and 64 of memory, so what makes objects is counted before any is made. A vocabulary
# of 128,000 tokens with 280,000 merges, as Llama 3's, has 1.4 million quotes.
_MOST = {b"[": 1 << 19, b"{": 1 << 19, b'"': 1 << 21, b",": 1 << 21}
# What models mark the end of a text with, in the order of preference: GPT-2 and Qwen, Llama 3, T5 and RoBERTa,
# Gemma, BERT.
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
_KEYS: dict[str, dict[str, Any]] = {
    "byte": {"kind": str, "end_of_text": bool},
    "char": {"kind": str, "characters": str, "end_of_text": bool, "unknown": bool},
    "subword": {"kind": str, "end_of_text": (str, type(None)), "definition": dict},
}


def read_tokenizer(path: str, may_grow: bool = True) -> Tokenizer:
    """The tokeniser in a file: ours, or Hugging Face's, or, where its name ends in .txt, a vocabulary of BERT's.
    Raises DataError for anything else.

    Hugging Face's gets an end of text: the special token that models commonly use for it; where there is none,
    one is added, with the next id, if the vocabulary `may_grow`.
    """
    if Path(path).suffix == ".txt":
        document = _read_vocabulary(Path(path))
    else:
        document = _read_json(Path(path))
        if isinstance(document, dict) and "kind" in document:
            return tokenizer_from_json(document, path)
    definition = checked_definition(document, path)
    special = {token["content"] for token in definition["added_tokens"] if token["special"]}
    end_of_text = next((name for name in _ENDS_OF_TEXT if name in special), None)
    if end_of_text is None and may_grow:
        end_of_text = END_OF_TEXT
        _add_special(definition, end_of_text)
    return SubwordTokenizer(definition, end_of_text, path)


def tokenizer_from_json(document: Any, source: str = "tokenizer.json") -> Tokenizer:
    """The tokeniser that `to_json` described. Raises DataError, naming `source`, for anything else."""
    if not isinstance(document, dict) or not isinstance(kind := document.get("kind"), str) or kind not in _KEYS:
        raise _not_ours(source, f'it is not an object whose "kind" is one of {", ".join(_KEYS)}')
    keys = _KEYS[kind]
    if document.keys() != keys.keys() or not all(isinstance(document[key], keys[key]) for key in keys):
        raise _not_ours(source, f"kind {kind} has exactly the keys {', '.join(keys)}, of their types")
    if kind == "byte":
        return ByteTokenizer(document["end_of_text"])
    if kind == "subword":
        return SubwordTokenizer(document["definition"], document["end_of_text"], source)
    characters = document["characters"]
    if not 0 < len(characters) <= MAX_CHARACTERS:
        raise _not_ours(source, f"it has {len(characters)} characters; 1 to {MAX_CHARACTERS} are allowed")
    if "".join(sorted(set(characters))) != characters:
        raise _not_ours(source, "its characters are not distinct and in code-point order")
    return CharTokenizer(characters, document["end_of_text"], document["unknown"])


def _read_vocabulary(path: Path) -> dict[str, Any]:
    """The definition of a WordPiece with the tokens of a vocab.txt. Whether in lower case, the tokenizer_config.json
    beside it says; where there is none, the tokens do.
    """
    tokens = vocabulary_of(_read(path), str(path))
    beside = path.expanduser().parent / "tokenizer_config.json"
    settings = _read_json(beside) if beside.is_file() else {}
    lowercase = settings.get("do_lower_case") if isinstance(settings, dict) else None
    if not isinstance(lowercase, bool):
        lowercase = is_lowercase(tokens)
    return wordpiece_definition(tokens, lowercase=lowercase)


def _read_json(path: Path) -> Any:
    data = _read(path)
    for mark, most in _MOST.items():
        if data.count(mark) > most:
            raise unusable(str(path), f"it has over {most:,} of the character {mark.decode()}")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise unusable(str(path), f"it is not JSON ({error})", "give the path of a tokenizer.json") from None


def _read(path: Path) -> bytes:
    try:
        if not path.expanduser().is_file():
            raise FileNotFoundError(None, "there is no such file")
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the path; RuntimeError: no such home
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError.of(
            "DATA-TOKENIZER",
            f"can't read the tokenizer {path}",
            cause=reason,
            fix="give data.tokenizer_path the path of a tokenizer.json or a vocab.txt",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise unusable(str(path), f"it is over {MAX_FILE_BYTES >> 20} MiB")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _add_special(definition: dict[str, Any], content: str) -> None:
    """In place; a token that stands in the vocabulary already keeps its id."""
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] != content]
    number = model_vocabulary(definition).get(content, len(vocabulary(definition)))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition["added_tokens"].append({"id": number, "content": content, **flags})


def _not_ours(source: str, reason: str) -> DataError:
    return DataError.of(
        "DATA-TOKENIZER",
        f"{source} does not hold a tokenizer of ours: {reason}",
        fix="use the file as bigtrain wrote it, from a complete checkpoint",
    )
