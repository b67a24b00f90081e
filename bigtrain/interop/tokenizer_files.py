"""Our tokenizers as Hugging Face's library has them: tokenizer.json, and what a pipeline has to know beside it."""

from __future__ import annotations

import json
from typing import Any

from bigtrain.data.tokenizers.bpe import END_OF_TEXT
from bigtrain.data.tokenizers.subword import BYTES_IN_ORDER, SubwordTokenizer
from bigtrain.data.tokenizers.subword_definition import PATTERNS, vocabulary
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, framing_ids
from bigtrain.interop.config import BERT, Family

_UNKNOWN, _MASK = "<unk>", "[MASK]"
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_files(
    tokenizer: Tokenizer, family: Family, max_length: int, mask_id: int | None = None
) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json; none for a kind of tokenizer that they lack.

    `max_length`: tokens that a longer text is cut to, if asked for; `mask_id`: what hides a token from the model, which
    becomes one of the tokenizer's own.
    """
    definition = definition_of(tokenizer)
    if definition is None:
        return {}
    names = {number: token for token, number in vocabulary(definition).items()}
    if mask_id == len(names) and _MASK not in names.values():
        names[mask_id] = _MASK
        definition["added_tokens"] = [*definition["added_tokens"], {"id": mask_id, "content": _MASK, **_FLAGS}]
    special = tokenizer.special_ids | ({} if mask_id is None else {"mask": mask_id})
    roles = {
        "unk_token": names.get(special.get("unknown", -1)),
        "pad_token": names.get(special.get("padding", special.get("end_of_text", -1))),
    }
    inputs = ["input_ids", "attention_mask"]
    if family is BERT:
        inputs.insert(1, "token_type_ids")
        roles["mask_token"] = names.get(special.get("mask", -1))
        if "end_of_text" in special:
            before, after = framing_ids(tokenizer)
            cls, sep = names[before], names[after]
            definition["post_processor"] = {"type": "BertProcessing", "cls": [cls, before], "sep": [sep, after]}
            roles |= {"cls_token": cls, "sep_token": sep}
    else:
        begin, end = special.get("begin", special.get("end_of_text", -1)), special.get("end_of_text", -1)
        # Of a long text the end is read, as `bigtrain generate` does.
        roles |= {"bos_token": names.get(begin), "eos_token": names.get(end), "truncation_side": "left"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        **{role: name for role, name in roles.items() if name is not None},
    }
    documents = {"tokenizer.json": definition, "tokenizer_config.json": settings}
    return {name: json.dumps(document, ensure_ascii=False).encode() for name, document in documents.items()}


def definition_of(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """A tokenizer.json that gives the same ids; None for a kind that can't be written so."""
    if isinstance(tokenizer, SubwordTokenizer):
        return dict(tokenizer.to_json()["definition"])
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if isinstance(tokenizer, ByteTokenizer):
        vocab = {character: byte for byte, character in enumerate(BYTES_IN_ORDER)}
        model = {"type": "BPE", "vocab": vocab, "merges": []}
        return _assembled(tokenizer, model, level, level)
    if isinstance(tokenizer, CharTokenizer):
        vocab = {character: number for number, character in enumerate(tokenizer.characters)}
        each = {"type": "Split", "pattern": {"Regex": PATTERNS["character"]}, "behavior": "Isolated", "invert": False}
        return _assembled(
            tokenizer, {"type": "WordLevel", "vocab": vocab, "unk_token": _UNKNOWN}, each, {"type": "Fuse"}
        )
    return None


def _assembled(
    tokenizer: Tokenizer, model: dict[str, Any], pre_tokenizer: dict[str, Any], decoder: dict[str, Any]
) -> dict[str, Any]:
    named = {END_OF_TEXT: tokenizer.end_of_text, _UNKNOWN: tokenizer.unknown}
    special = {name: number for name, number in named.items() if number is not None}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, **_FLAGS} for name, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder,
        "model": model | {"vocab": model["vocab"] | special},
    }
