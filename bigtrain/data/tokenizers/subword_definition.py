"""What a subword tokenizer's definition may hold: the part of Hugging Face's tokenizer.json that is used, and is safe.

A file may come from a stranger. Only the components listed here, with these settings, ever reach the library
`tokenizers`; a regular expression must be one of those in `PATTERNS`, as any other could backtrack for ever.
What the file says of padding, truncation and special tokens put around a text is dropped: a training stream has
neither. How a definition is used: `data/tokenizers/subword.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bigtrain.errors import DataError

MAX_VOCABULARY = 1 << 18  # Llama 3 has half as many tokens
MAX_ADDED_TOKENS = 10_000
MAX_TOKEN_CHARACTERS = 1_000
_MAX_PIECE_CHARACTERS = 200  # of a Unigram's, which are all looked for at every character
_MAX_REPLACEMENT_BYTES = 64  # NFKC's longest has 33
_MAX_DEPTH = 3
_MAX_SEQUENCE = 16

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE_WORD, _MARKS, _SPACES = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+", r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Each is linear in the text, and has a border before a space between two visible characters, and after a line end
# between two words: `data/tokenizers/subword.py` cuts there.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # as Llama 3 writes it
    "gpt4": rf"{_CONTRACTIONS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}[\r\n]*|{_SPACES}",
    "character": r"[\s\S]",
    "qwen2": rf"{_CONTRACTIONS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}|{_MARKS}[\r\n]*|{_SPACES}",
    "gpt4o": rf"{_BEFORE_WORD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE_WORD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}|{_MARKS}[\r\n/]*|{_SPACES}",
}

Check = Callable[[Any], bool]


def _one_of(*allowed: Any) -> Check:
    return lambda value: any(type(value) is type(one) and value == one for one in allowed)


def _short_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 8


def _sound_rules(value: Any) -> bool:
    """Whether SentencePiece's rules for characters stay within themselves, and put no more than a short text for one.

    They are a double-array trie (darts-clone) of 4-byte units, its length in bytes before it, and then the texts that
    its leaves point to, each up to a NUL. The library follows it without looking.
    """
    try:
        rules = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return False
    size = int.from_bytes(rules[:4], "little")
    trie, texts = rules[4 : 4 + size], rules[4 + size :]
    if len(trie) < size or not size or size % 4 or not texts.endswith(b"\0"):
        return False
    units = np.frombuffer(trie, "<u4").astype(np.int64)
    offsets = np.where(units & 0x200, (units >> 10) << 8, units >> 10)
    is_leaf, nexts = units >= 1 << 31, np.arange(len(units)) ^ offsets
    begins = units[is_leaf] & 0x7FFFFFFF
    if (nexts[~is_leaf] | 0xFF >= len(units)).any() or (begins >= len(texts)).any():  # whatever byte comes next
        return False
    if not is_leaf[nexts[~is_leaf & (units & 0x100 != 0)]].all():
        return False
    inside = np.frombuffer(texts, np.uint8)[begins] & 0xC0 == 0x80  # of a character
    return not inside.any() and max(map(len, texts.split(b"\0"))) <= _MAX_REPLACEMENT_BYTES


_BOOLEAN = _one_of(True, False)
_REPLACED = ({"String": " "}, {"Regex": " {2,}"}, {"String": "``"}, {"String": "''"})
_BEHAVIORS = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_METASPACE: dict[str, Check] = {
    "replacement": _one_of("▁"),
    "str_rep": _one_of("▁"),
    "add_prefix_space": _BOOLEAN,  # as it was written before there was a prepend_scheme
    "prepend_scheme": _one_of("first", "never", "always"),
    "split": _BOOLEAN,
}
_BYTE_LEVEL: dict[str, Check] = {"add_prefix_space": _BOOLEAN, "trim_offsets": _BOOLEAN, "use_regex": _BOOLEAN}

# part of the definition → type → setting → whether its value is allowed. Sequences are walked in `_component`.
COMPONENTS: dict[str, dict[str, dict[str, Check]]] = {
    "normalizer": {
        "NFC": {},
        "NFD": {},
        "NFKC": {},
        "NFKD": {},
        "Lowercase": {},
        "StripAccents": {},
        "BertNormalizer": {
            "clean_text": _BOOLEAN,
            "handle_chinese_chars": _BOOLEAN,
            "strip_accents": _one_of(True, False, None),
            "lowercase": _BOOLEAN,
        },
        "Nmt": {},
        "Strip": {"strip_left": _BOOLEAN, "strip_right": _BOOLEAN},
        # Any other replacement could make a text a million times as long.
        "Prepend": {"prepend": _one_of("▁")},
        "Replace": {"pattern": _one_of(*_REPLACED), "content": _one_of("▁", " ", '"')},
        "Precompiled": {"precompiled_charsmap": _sound_rules},
    },
    "pre_tokenizer": {
        "ByteLevel": _BYTE_LEVEL,
        "BertPreTokenizer": {},
        "Whitespace": {},
        "WhitespaceSplit": {},
        "CharDelimiterSplit": {"delimiter": lambda value: isinstance(value, str) and len(value) == 1},
        "UnicodeScripts": {},
        "Punctuation": {"behavior": _BEHAVIORS},
        "Digits": {"individual_digits": _BOOLEAN},
        "Metaspace": _METASPACE,
        "Split": {
            "pattern": _one_of({"String": " "}, *({"Regex": pattern} for pattern in PATTERNS.values())),
            "behavior": _BEHAVIORS,
            "invert": _BOOLEAN,
        },
    },
    "decoder": {
        "ByteLevel": _BYTE_LEVEL,
        "WordPiece": {"prefix": _short_text, "cleanup": _BOOLEAN},
        "Metaspace": _METASPACE,
        "ByteFallback": {},
        "Fuse": {},
        "Strip": {"content": _one_of(" ", "▁"), "start": _one_of(0, 1), "stop": _one_of(0, 1)},
        "Replace": {"pattern": _one_of({"String": "▁"}), "content": _one_of(" ")},
    },
    "model": {
        "BPE": {
            "dropout": _one_of(None),
            "unk_token": lambda value: value is None or isinstance(value, str),
            "continuing_subword_prefix": _one_of(None, ""),
            "end_of_word_suffix": _one_of(None, ""),
            "fuse_unk": _BOOLEAN,
            "byte_fallback": _BOOLEAN,
            "ignore_merges": _BOOLEAN,
        },
        "WordPiece": {
            "unk_token": lambda value: isinstance(value, str),
            "continuing_subword_prefix": _short_text,
            "max_input_chars_per_word": lambda value: type(value) is int and 0 < value <= 200,  # costs its square
        },
        "WordLevel": {"unk_token": lambda value: isinstance(value, str)},
        "Unigram": {"unk_id": lambda value: value is None or type(value) is int, "byte_fallback": _BOOLEAN},
    },
}
_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_DROPPED = ("truncation", "padding", "post_processor")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def checked_definition(document: Any, source: str) -> dict[str, Any]:
    """The definition as it may be handed to `tokenizers`: every part checked, ids 0 … n-1, nothing else in it.

    Checking a checked one changes nothing. Raises DataError, naming `source` and what is not allowed.
    """
    parts = ("version", "added_tokens", "normalizer", "pre_tokenizer", "decoder", "model", *_DROPPED)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise unusable(source, 'it is not an object with a "model" in it')
    _refuse_other_keys(document, set(parts), source, "it")
    definition: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
    definition["added_tokens"] = _added_tokens(document.get("added_tokens"), source)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        value = None if part in _DROPPED else document.get(part)
        definition[part] = None if value is None else _component(part, value, source, _MAX_DEPTH)
    definition["model"] = _model(document["model"], source)
    _require_dense_ids(definition, source)
    return definition


def components(definition: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The components of a checked definition's `part`, sequences opened, in their order."""
    return list(_opened(definition[part], _SEQUENCES[part]))


def model_vocabulary(definition: dict[str, Any]) -> dict[str, int]:
    """Token → id of a checked definition's model. A Unigram's ids are places in a list."""
    vocab = definition["model"]["vocab"]
    return vocab if isinstance(vocab, dict) else {token: number for number, (token, _) in enumerate(vocab)}


def vocabulary(definition: dict[str, Any]) -> dict[str, int]:
    """Token → id of a checked definition, added tokens included."""
    return model_vocabulary(definition) | {token["content"]: token["id"] for token in definition["added_tokens"]}


def is_extension(definition: dict[str, Any] | None, of: dict[str, Any] | None) -> bool:
    """Whether a definition has every token of the other, with the same id, and differs in nothing but further ones."""
    if definition is None or of is None:
        return False
    mine, theirs = (checked_definition(one, "a tokenizer") for one in (definition, of))
    tokens = vocabulary(mine).items() >= vocabulary(theirs).items()
    flags = all(token in mine["added_tokens"] for token in theirs["added_tokens"])
    models = [mine.pop("model"), theirs.pop("model")]
    merges = [model.get("merges", []) for model in models]
    settings = [{key: model[key] for key in model.keys() - {"vocab", "merges"}} for model in models]
    del mine["added_tokens"], theirs["added_tokens"]
    alike = mine == theirs and settings[0] == settings[1]
    return tokens and flags and alike and merges[0][: len(merges[1])] == merges[1]


def unusable(source: str, reason: str, fix: str = "") -> DataError:
    """The error for a tokenizer file that can't be used."""
    return DataError.of(
        "DATA-TOKENIZER",
        f"{source} is no tokenizer that bigtrain can use: {reason}",
        fix=fix
        or "data.tokenizer=bpe learns one from your own text; if the file was changed, use it as it was written",
    )


def _opened(component: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    if component is None:
        return
    if component["type"] != "Sequence":
        yield component
        return
    for inner in component[key]:
        yield from _opened(inner, key)


def _component(part: str, value: Any, source: str, depth: int) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    inner_key = _SEQUENCES.get(part)
    if kind == "Sequence" and inner_key:
        inner = value.get(inner_key)
        if not isinstance(inner, list) or len(inner) > _MAX_SEQUENCE or not depth:
            raise unusable(source, f"its {part} is too long or too deep a sequence")
        _refuse_other_keys(value, {"type", inner_key}, source, f"its {part}")
        return {"type": kind, inner_key: [_component(part, one, source, depth - 1) for one in inner]}
    if not isinstance(kind, str) or kind not in COMPONENTS[part]:
        allowed = ", ".join(COMPONENTS[part])
        found = f"is {_shown(kind)}" if kind is not None else "has no type"
        raise unusable(source, f"its {part} {found}", f"these are supported: {allowed}")
    rules = COMPONENTS[part][kind]
    _refuse_other_keys(value, {"type", *rules}, source, f"its {part} {kind}")
    for key, is_allowed in rules.items():
        if key in value and not is_allowed(value[key]):
            raise unusable(source, f"its {part} {kind} has {key}={_shown(value[key])}, which is not supported")
    return dict(value)


def _model(model: dict[str, Any], source: str) -> dict[str, Any]:
    settings = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    if "type" not in settings:  # GPT-2's own file leaves it out
        settings["type"] = "BPE" if "merges" in model else None
    checked = _component("model", settings, source, 0)
    vocab = model.get("vocab")
    if checked["type"] == "Unigram":
        _check_pieces(vocab, source)
    elif not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_VOCABULARY:
        raise unusable(source, f"its vocabulary is not an object of 1 to {MAX_VOCABULARY:,} tokens")
    else:
        for token, number in vocab.items():
            if not 0 < len(token) <= MAX_TOKEN_CHARACTERS or type(number) is not int:
                raise unusable(source, f"its vocabulary says {_shown(token)}: {_shown(number)}")
    checked["vocab"] = vocab
    if checked["type"] == "BPE":
        assert isinstance(vocab, dict)
        checked["merges"] = _merges(model.get("merges"), vocab, source)
    elif "merges" in model:
        raise unusable(source, "its model has merges, but is not BPE")
    return checked


def _check_pieces(pieces: Any, source: str) -> None:
    """A Unigram's vocabulary: [piece, logarithm of its probability], each piece once."""
    if not isinstance(pieces, list) or not 0 < len(pieces) <= MAX_VOCABULARY:
        raise unusable(source, f"its vocabulary is not a list of 1 to {MAX_VOCABULARY:,} pieces")
    for piece in pieces:
        fits = isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)
        if not fits or type(piece[1]) not in (float, int) or not abs(piece[1]) < 1e30:
            raise unusable(source, f"its vocabulary has {_shown(piece)}, which is no piece with a score")
        if not 0 < len(piece[0]) <= _MAX_PIECE_CHARACTERS:
            raise unusable(source, f"its vocabulary has {_shown(piece[0])}, which is too long or too short a piece")
    if len({piece for piece, _ in pieces}) < len(pieces):
        raise unusable(source, "its vocabulary has a piece twice")


def _merges(merges: Any, vocab: dict[str, int], source: str) -> list[list[str]]:
    if not isinstance(merges, list) or len(merges) > MAX_VOCABULARY:
        raise unusable(source, f"its merges are not a list of at most {MAX_VOCABULARY:,}")
    pairs = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) for half in pair):
            raise unusable(source, f"its merges hold {_shown(merge)}, which is no pair of tokens")
        if not (pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab):
            raise unusable(source, f"its merge {_shown(' '.join(pair))} is of tokens that are not in its vocabulary")
        pairs.append(pair)
    return pairs


def _added_tokens(tokens: Any, source: str) -> list[dict[str, Any]]:
    if tokens is None:
        return []
    if not isinstance(tokens, list) or len(tokens) > MAX_ADDED_TOKENS:
        raise unusable(source, f"its added_tokens are not a list of at most {MAX_ADDED_TOKENS:,}")
    for token in tokens:
        fits = isinstance(token, dict) and token.keys() <= {"id", "content", *_FLAGS}
        if not fits or not all(type(token.get(flag, False)) is bool for flag in _FLAGS):
            raise unusable(source, f"its added_tokens hold {_shown(token)}")
        content = token.get("content")
        if not isinstance(content, str) or not 0 < len(content) <= MAX_TOKEN_CHARACTERS:
            raise unusable(source, f"its added_tokens hold one that says {_shown(content)}")
    checked = [
        {"id": token.get("id"), "content": token["content"], **{flag: token.get(flag, False) for flag in _FLAGS}}
        for token in tokens
    ]
    return sorted(checked, key=lambda token: token["id"] if type(token["id"]) is int else -1)


def _require_dense_ids(definition: dict[str, Any], source: str) -> None:
    """Every id from 0 on exactly once: one that is missing would be a row of weights that nothing trains."""
    ids = dict(model_vocabulary(definition))
    for token in definition["added_tokens"]:
        if type(token["id"]) is not int or ids.setdefault(token["content"], token["id"]) != token["id"]:
            raise unusable(source, f"its added token {_shown(token['content'])} has two ids, or none")
    if len(set(ids.values())) != len(ids) or min(ids.values()) != 0 or max(ids.values()) != len(ids) - 1:
        raise unusable(source, f"the ids of its {len(ids):,} tokens are not 0 to {len(ids) - 1:,}, each once")


def _refuse_other_keys(value: dict[str, Any], known: set[str], source: str, what: str) -> None:
    other = sorted(set(value) - known)
    if other:
        raise unusable(source, f"{what} has {_shown(other[0])}, which is not supported")


def _shown(value: Any) -> str:
    """A value in an error message: short, and never walked into, whatever a stranger put there."""
    plain = not isinstance(value, (dict, list))
    if isinstance(value, dict) and len(value) == 1:
        plain = isinstance(next(iter(value.values())), str)
    text = repr(value) if plain else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
