"""Small definitions in the shapes of well-known tokenizer.json files."""

import base64
import struct

from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.subword_definition import PATTERNS

TEXT = (
    "the cat sat on the mat; the dog's bowl isn't 1234 or 12 wide. " * 3
    + "Ünïcode, 日本語 and\n\n\tHe said: “don't”!\n" * 2
)


def special(content, number, **flags):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags
    return {"id": number, "content": content, **flags}


def byte_level(**changes):
    """As GPT-2's: merges as "a b", a post-processor, no type on the model."""
    learnt = train_bpe([TEXT], 300, False).to_json()["definition"]["model"]
    vocab = dict(learnt["vocab"])
    vocab["<|endoftext|>"] = len(vocab)
    merges = [" ".join(pair) for pair in learnt["merges"]]
    model = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": None,
        "added_tokens": [special("<|endoftext|>", len(vocab) - 1)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {**level, "trim_offsets": False},
        "decoder": level,
        "model": {**model, "fuse_unk": False, "vocab": vocab, "merges": merges},
        **changes,
    }


def by_pattern(name, **changes):
    """As Llama 3's: one of the known patterns, then bytes."""
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[name]}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return byte_level(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]}, **changes)


def bert(**changes):
    """As BERT's: WordPiece, lower case, padding to 128 and [CLS] … [SEP] around a text."""
    words = ["the", "cat", "sat", "on", "mat", "dog", "bowl", "is", "##n", "t", "he", "said", "do", "##o", "##g"]
    marks = list(";',.:!12") + [f"##{mark}" for mark in "1234"]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {token: number for number, token in enumerate(names + words + marks)}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    around = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names[2:]]
    template = [around[0], {"Sequence": {"id": "A", "type_id": 0}}, around[1]]
    ids = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in names[2:]}
    pad = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None}
    return {
        "version": "1.0",
        "truncation": {"max_length": 128, "strategy": "LongestFirst", "stride": 0},
        "padding": {**pad, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(name, vocab[name]) for name in names],
        "normalizer": {**normalizer, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": ids,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        **changes,
    }


def sentencepiece(**changes):
    """As Llama 2's: a mark at the beginning of the text, no pre-tokenizer, bytes to fall back on."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *fallback, "▁", *"theacsond", "th", "the", "▁the", "▁c"]
    merges = [["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "c"]]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    vocab = {token: number for number, token in enumerate(tokens)}
    return {
        "version": "1.0",
        "added_tokens": [special(token, number) for number, token in enumerate(tokens[:3])],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocab, "merges": merges},
        **changes,
    }


def metaspace(**changes):
    """As newer SentencePiece conversions: a Metaspace instead of normalizers."""
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return sentencepiece(normalizer=None, pre_tokenizer=space, decoder=space, **changes)


def unigram(normalizers=(), **changes):
    """As T5's: pieces with scores, SentencePiece's rules for characters (here: x becomes ks), a mark before a word."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"theacsonkmd", "▁the", "▁c", "at", "▁sat", "▁on"]
    scores = [0.0, 0.0, 0.0, -2.0, *(-4.0 - number / 8 for number in range(len(pieces) - 4))]
    space = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    vocab = [list(pair) for pair in zip(pieces, scores, strict=True)]
    chain = [rules(charsmap(b"ks")), {"type": "Strip", "strip_left": False, "strip_right": True}, *normalizers]
    return {
        "version": "1.0",
        "added_tokens": [special(token, number) for number, token in enumerate(pieces[:3])],
        "normalizer": {"type": "Sequence", "normalizers": chain},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": None,
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab} | changes,
    }


def rules(content):
    """SentencePiece's normalization rules, as a tokenizer.json has them."""
    text = content if isinstance(content, str) else base64.b64encode(content).decode()
    return {"type": "Precompiled", "precompiled_charsmap": text}


def charsmap(replacement, step=1, text=0):
    """The rules that put this in place of x: a double array of 256 units, and the text that its one leaf points to."""
    units = [0] * 256
    units[ord("x")] = step << 10 | 1 << 8 | ord("x")  # the leaf is at the next place
    units[ord("x") + 1] = 1 << 31 | text  # where the text begins
    trie = struct.pack("<256I", *units)
    return struct.pack("<I", len(trie)) + trie + replacement + b"\0"


def wordlevel(**changes):
    """As of a word-level language model: no special token, no decoder, <unk> an ordinary word of the text too."""
    words = ["[UNK]", "<unk>", "</s>", "the", "cat", "sat", "on", "mat;", "dog's", "1234", "N"]
    vocab = {token: number for number, token in enumerate(words)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"} | changes,
    }
