"""A tokenizer.json, ours or another's, is used as it is or refused in a sentence, whoever wrote it."""

import copy
import json
import random

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.division import given_splits
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.tokenizers import tokenizer_file
from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer, tokenizer_from_json
from bigtrain.errors import DataError

from .subword_definitions import (
    TEXT,
    bert,
    by_pattern,
    byte_level,
    charsmap,
    metaspace,
    rules,
    sentencepiece,
    special,
    unigram,
    wordlevel,
)

SHAPES = {"gpt2": byte_level, "gpt4": lambda: by_pattern("gpt4"), "bert": bert, "sentencepiece": sentencepiece}
SHAPES |= {"metaspace": metaspace, "unigram": unigram, "wordlevel": wordlevel}


def written(tmp_path, document):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return str(path)


@pytest.mark.parametrize(
    ("shape", "end_of_text"), [("gpt2", "<|endoftext|>"), ("bert", "[SEP]"), ("sentencepiece", "</s>")]
)
def test_the_end_of_text_is_the_model_s_own(tmp_path, shape, end_of_text):
    tokenizer = read_tokenizer(written(tmp_path, SHAPES[shape]()))
    assert tokenizer.to_json()["end_of_text"] == end_of_text
    assert tokenizer.vocab_size == len(SHAPES[shape]()["model"]["vocab"])


def test_a_file_without_an_end_of_text_is_given_one(tmp_path):
    tokenizer = read_tokenizer(written(tmp_path, bert(added_tokens=[special("[UNK]", 1)])))
    size = len(bert()["model"]["vocab"])
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (size, size + 1)
    tokenizer = read_tokenizer(written(tmp_path, byte_level(added_tokens=[])))  # it stands among the ordinary tokens
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (300, 301)


@pytest.mark.parametrize("shape", SHAPES)
def test_encoding_and_decoding_are_the_library_s_own(tmp_path, shape):
    library = pytest.importorskip("tokenizers")
    path = written(tmp_path, SHAPES[shape]())
    ours, theirs = read_tokenizer(path), library.Tokenizer.from_file(path)
    theirs.no_truncation()
    theirs.no_padding()
    theirs.encode_special_tokens = True
    for text in (TEXT, "the  cat saxt on\tthe N <unk> xyzzy mat; ", "", " ", "日本 ﬁne"):
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text).tolist() == expected
        assert ours.decode(np.array(expected, dtype=np.int64)) == theirs.decode(expected, skip_special_tokens=False)


TAB = {"type": "CharDelimiterSplit", "delimiter": "\t"}


@pytest.mark.parametrize("splitter", [TAB, {"type": "UnicodeScripts"}, {"type": "Punctuation", "behavior": "Isolated"}])
def test_words_may_be_split_otherwise(tmp_path, splitter):
    library = pytest.importorskip("tokenizers")
    path = written(tmp_path, wordlevel() | {"pre_tokenizer": splitter, "normalizer": {"type": "Lowercase"}})
    text = "the\tcat\tsat 日本on\tmat;"
    expected = library.Tokenizer.from_file(path).encode(text).ids
    assert read_tokenizer(path).encode(text).tolist() == expected


def test_whole_words_and_pieces_with_scores_by_hand(tmp_path):
    words = read_tokenizer(written(tmp_path, wordlevel()))
    assert words.encode("the dog's <unk> [UNK] ran N").tolist() == [3, 8, 1, 0, 1, 10]
    assert (words.unknown, words.end_of_text, words.vocab_size) == (1, 11, 12)
    assert words.decode(np.array([3, 4, 11, 5])) == "the cat\n\nsat" and words.begins_word().all()
    pieces = read_tokenizer(written(tmp_path, unigram()))
    tokens = ["▁the", "▁", "s", "a", "k", "s", "<unk>"]
    assert pieces.encode("the saxü").tolist() == [
        [piece for piece, _ in unigram()["model"]["vocab"]].index(token) for token in tokens
    ]
    assert pieces.special_ids == {"end_of_text": 1, "unknown": 2, "separator": 1, "padding": 0}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_travels_in_a_checkpoint(tmp_path, shape):
    tokenizer = read_tokenizer(written(tmp_path, SHAPES[shape]()))
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.to_json() == tokenizer.to_json() and again.end_of_text == tokenizer.end_of_text
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(True), train_bpe([TEXT], 300, True)], ids=["byte", "bpe"])
def test_a_checkpoint_s_tokenizer_can_be_named(tmp_path, tokenizer):
    assert read_tokenizer(written(tmp_path, tokenizer.to_json())).to_json() == tokenizer.to_json()


def changed(**changes):
    return lambda: byte_level(**changes)


def changed_model(**changes):
    def make():
        shape = byte_level()
        shape["model"] |= changes
        return shape

    return make


def changed_pieces(vocab):
    return lambda: unigram(vocab=vocab)


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
EVIL = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
GROWTH = {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 1000}
DEEP = LEVEL
for _ in range(9):
    DEEP = {"type": "Sequence", "pretokenizers": [DEEP]}

REFUSED = {
    "another model": (
        lambda: {"model": {"type": "Other", "vocab": []}},
        "(?s)Other.*BPE, WordPiece, WordLevel, Unigram",
    ),
    "no pieces": (changed_pieces([]), "not a list of 1 to"),
    "a piece without a score": (changed_pieces([["a"]]), "no piece with a score"),
    "a score that is text": (changed_pieces([["a", "0"]]), "no piece with a score"),
    "an endless score": (changed_pieces([["a", 10**400]]), "no piece with a score"),
    "a long piece": (changed_pieces([["a" * 201, 0.0]]), "too long or too short a piece"),
    "a piece twice": (changed_pieces([["a", 0.0], ["a", 1.0]]), "a piece twice"),
    "pieces without an unknown one": (lambda: unigram(unk_id=None), "without a trace"),
    "an unknown piece that is none": (lambda: unigram(unk_id=999), "does not fit together"),
    "an own pattern": (changed(pre_tokenizer=EVIL), "Split has pattern=.*not supported"),
    "a text that grows": (changed(normalizer=GROWTH), "Replace has content="),
    "a compiled normalizer": (
        changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AA=="}),
        "Precompiled",
    ),
    "rules that are no base64": (changed(normalizer=rules("@")), "Precompiled has precompiled_charsmap"),
    "rules whose texts are long": (changed(normalizer=rules(charsmap(b"x" * 65))), "Precompiled has precompiled_cha"),
    "rules that lead out of themselves": (changed(normalizer=rules(charsmap(b"x", step=300))), "Precompiled has preco"),
    "rules that lead to no text": (changed(normalizer=rules(charsmap(b"x", text=9))), "Precompiled has precompiled_c"),
    "rules that lead into a character": (changed(normalizer=rules(charsmap("é".encode(), text=1))), "Precompiled has"),
    "rules that end in a text": (changed(normalizer=rules(charsmap(b"x")[:-1])), "Precompiled has precompiled_cha"),
    "another pattern to replace": (
        changed(normalizer={**GROWTH, "pattern": {"Regex": "(a+)+$"}}),
        "Replace has pattern",
    ),
    "a deep sequence": (changed(pre_tokenizer=DEEP), "too long or too deep"),
    "a long sequence": (changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [LEVEL] * 99}), "too long"),
    "an unknown part": (changed(hook="x"), "it has 'hook'"),
    "an unknown setting": (changed(pre_tokenizer={**LEVEL, "x": 1}), "pre_tokenizer ByteLevel has 'x'"),
    "a missing setting": (changed(pre_tokenizer={"type": "ByteLevel"}), "."),
    "dropout": (changed_model(dropout=0.1), "dropout=0.1"),
    "a huge id": (changed(added_tokens=[special("<x>", 10**9)]), "not 0 to"),
    "a hole": (changed(added_tokens=[special("<x>", 302)]), "not 0 to"),
    "one id twice": (changed(added_tokens=[special("<x>", 0)]), "not 0 to"),
    "two ids": (changed(added_tokens=[special("<|endoftext|>", 301)]), "two ids"),
    "no ids": (changed_model(vocab={}), "1 to 262,144 tokens"),
    "an id that is text": (changed_model(vocab={"a": "0"}), "its vocabulary says 'a': '0'"),
    "an id that is true": (changed_model(vocab={"a": True}), "its vocabulary says"),
    "a merge of three": (changed_model(merges=["a b c"]), "no pair of tokens"),
    "a merge of strangers": (changed_model(merges=[["z", "q"]]), "not in its vocabulary"),
    "a lone surrogate": (changed(added_tokens=[special("\ud800", 301)]), "does not fit together"),
    "a word without bound": (lambda: bert(model={**bert()["model"], "max_input_chars_per_word": 10**9}), "max_input"),
    "no unknown token": (lambda: bert(model={**bert()["model"], "unk_token": "[?]"}), "without a trace"),
    "nothing": (dict, '"model" in it'),
    "a list": (list, '"model" in it'),
    "NaN": (lambda: b'{"model": NaN}', "NaN is no JSON number"),
    "deep JSON": (lambda: b"[" * 100_000, "not JSON"),
    "not JSON": (lambda: b"\x80\x04\x95", "not JSON"),
    "many lists": (lambda: b"[" + b"[]," * 600_000 + b"0]", "of the character"),
    "a kind of another program": (lambda: {"kind": "wordpiece"}, '"kind" is one of'),
    "subwords with an end that is none": (
        lambda: {"kind": "subword", "end_of_text": "x", "definition": byte_level()},
        "not among its special tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_named(tmp_path, name):
    make, said = REFUSED[name]
    path = written(tmp_path, make())
    with pytest.raises(DataError, match=said) as caught:
        read_tokenizer(path)
    assert path in str(caught.value) and len(str(caught.value)) < 600


def test_a_file_over_the_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match="it is over"):
        read_tokenizer(written(tmp_path, byte_level()))


@pytest.mark.parametrize("path", ["nowhere.json", ".", "a\0b", "~nobody-of-this-name/x", "/dev/zero"])
def test_a_path_that_can_not_be_read_is_a_sentence(path):
    with pytest.raises(DataError, match="can't read the tokenizer"):
        read_tokenizer(path)


def places(node):
    """Every (container, key) of a JSON tree; of large ones, the first."""
    keys = list(node)[:8] if isinstance(node, dict) else range(min(8, len(node)))
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


VALUES = [
    [["a", 0.0], ["<unk>", 1]],
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    "",
    "x" * 3000,
    "Sequence",
    "BPE",
    "\x00",
    [],
    {},
    [[]],
    {"Regex": "(.*)*x"},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_change_gives_a_tokenizer_that_works_or_a_data_error(tmp_path, shape):
    outcomes = set()
    for seed in range(30):
        chance, document = random.Random(f"{shape}{seed}"), copy.deepcopy(SHAPES[shape]())
        container, key = chance.choice(list(places(document)))
        container[key] = chance.choice(VALUES)
        try:
            tokenizer = read_tokenizer(written(tmp_path, document))
        except DataError:
            outcomes.add("refused")
            continue
        outcomes.add("used")
        ids = tokenizer.encode(TEXT + "[SEP]<|endoftext|> \x00")
        assert ids.max() < tokenizer.vocab_size and tokenizer.decode(ids)
        assert tokenizer_from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
    assert "refused" in outcomes


def problems(**settings):
    return [problem.message for problem in find_problems(TextCorpusConfig(path="x", **settings), "data")]


def test_settings_without_effect_are_refused():
    assert problems(tokenizer=Tokenizer.bpe, vocab_size=300) == problems(tokenizer=Tokenizer.bpe) == []
    assert problems(tokenizer=Tokenizer.file, tokenizer_path="x.json") == []
    assert "vocab_size is 300, but tokenizer=byte" in problems(vocab_size=300)[0]
    assert (
        "vocab_size is 300, but tokenizer=file"
        in problems(tokenizer=Tokenizer.file, tokenizer_path="x", vocab_size=300)[0]
    )
    assert "tokenizer_path is missing" in problems(tokenizer=Tokenizer.file)[0]
    assert (
        "tokenizer_path is 'x.json', but tokenizer=bpe" in problems(tokenizer=Tokenizer.bpe, tokenizer_path="x.json")[0]
    )
    assert "data.vocab_size is 256" in problems(tokenizer=Tokenizer.bpe, vocab_size=256)[0]


def test_a_data_module_uses_the_file_and_notices_another(tmp_path):
    documents = given_splits({"train": in_memory(["the cat sat on the mat"] * 2), "val": in_memory(["the dog"])})

    def splits(read):
        path = str(tmp_path / "tokenizer.json")
        settings = {"tokenizer": Tokenizer.file, "tokenizer_path": path, "cache_dir": str(tmp_path / "cache")}
        return TextSplits(TextCorpusConfig(path="unused", sequence_length=4, **settings), "s", read, None)

    written(tmp_path, byte_level())
    first = splits(lambda: documents)
    assert first.spec.vocab_size == 301 and first.spec.special_tokens == {"end_of_text": 300}
    assert splits(lambda: pytest.fail("read although it was in the cache")).spec == first.spec
    written(tmp_path, bert())
    other = splits(lambda: documents)
    assert other.spec.vocab_size == len(bert()["model"]["vocab"]) and other.spec.fingerprint != first.spec.fingerprint
    given_one = TextSplits(  # a checkpoint brings its own: the file may be gone
        TextCorpusConfig(
            path="unused",
            tokenizer=Tokenizer.file,
            tokenizer_path="gone",
            sequence_length=4,
            cache_dir=str(tmp_path / "cache"),
        ),
        "t",
        lambda: documents,
        first.tokenizer,
    )
    assert given_one.tokenizer is first.tokenizer
    assert np.array_equal(given_one.dataset("val").gather([0])["tokens"], first.dataset("val").gather([0])["tokens"])
