"""Subword tokenisers encode a long text in pieces to the ids of the whole, and count what they can't represent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.division import given_splits
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.text.token_stream import join_documents, scored_text_bytes
from bigtrain.data.tokenizers import subword
from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.subword_definition import PATTERNS
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, characters_of
from bigtrain.errors import DataError

from .subword_definitions import (
    TEXT,
    bert,
    by_pattern,
    byte_level,
    metaspace,
    sentencepiece,
    special,
    unigram,
    wordlevel,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
fragments = [
    "the",
    "cat",
    "Don",
    "'s",
    "'LL",
    "12345",
    "!",
    "/",
    "(",
    "é",
    "e\u0301",
    "日本",
    "ﷺ",
    "ẞ",
    "\u200b",
    "[SEP]",
]
spaces = [" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "<|endoftext|>"]
mixed = st.lists(st.sampled_from(fragments + spaces) | texts, max_size=30).map("".join)

MARKED_FIRST = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
    ],
}
NFKC = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}]}
SHAPES = {
    "gpt2": byte_level(),
    "gpt2 with a prefix space": byte_level(
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    ),
    "normalized": byte_level(normalizer=NFKC),
    "bert": bert(),
    "sentencepiece": sentencepiece(),
    "metaspace": metaspace(),
    "unigram": unigram(),
    "wordlevel": wordlevel(),
    "words marked at the beginning only": wordlevel() | {"pre_tokenizer": MARKED_FIRST},
    **{name: by_pattern(name) for name in PATTERNS},
}
added = byte_level()
added["added_tokens"] += [
    special("the cat", 301, special=False, rstrip=True),
    special("\n\n", 302, special=False, normalized=True),
]
SHAPES["added tokens"] = added


@pytest.fixture(scope="module", params=SHAPES)
def tokenizer(request):
    return SubwordTokenizer(SHAPES[request.param], None)


@given(mixed)
@settings(deadline=None, max_examples=60)
def test_pieces_give_the_ids_of_the_whole(tokenizer, text):
    whole = tokenizer._rust.encode(text, add_special_tokens=False).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword, "PIECE_CHARACTERS", 2)
        assert tokenizer.encode(text).tolist() == whole


def test_texts_that_can_be_cut_are_cut():
    """Else the test above would show nothing."""
    pieces = list(subword.pieces_of([TEXT * 1000]))
    assert "".join(pieces) == TEXT * 1000
    assert max(map(len, pieces)) < 20_100 and len(pieces) > 5
    cut = {name for name, shape in SHAPES.items() if SubwordTokenizer(shape, None)._has_borders}
    assert cut == {"gpt2", "normalized", "bert", "unigram", "wordlevel", *PATTERNS}


def test_many_texts_come_one_by_one_whatever_their_lengths():
    tokenizer = SubwordTokenizer(byte_level(), "<|endoftext|>")
    documents = ["", TEXT * 300, "a", "", TEXT]
    found = list(tokenizer.encode_all(documents, np.uint16))
    assert [ids.tolist() for ids in found] == [tokenizer.encode(document).tolist() for document in documents]
    assert {ids.dtype for ids in found} == {np.dtype(np.uint16)}
    assert join_documents(documents, tokenizer)[0] == tokenizer.end_of_text


def test_a_run_that_the_patterns_give_up_on_is_cut(monkeypatch):
    monkeypatch.setattr(subword, "LONGEST_PIECE", 30_000)
    tokenizer = SubwordTokenizer(by_pattern("gpt4"), None)
    assert tokenizer.decode(tokenizer.encode(" " * 100_000 + "x")) == " " * 100_000 + "x"


def test_wordpiece_ids_by_hand():
    tokenizer = SubwordTokenizer(bert(), "[SEP]")
    vocab = bert()["model"]["vocab"]
    expected = ["the", "dog", "is", "##n", "'", "t", "[UNK]", "."]
    assert tokenizer.encode("The\tdog isn't Bürgerlich.").tolist() == [vocab[token] for token in expected]
    assert tokenizer.decode(tokenizer.encode("The dog, he said")) == "the dog, he said"
    assert (tokenizer.unknown, tokenizer.end_of_text) == (1, 3)


def test_padding_truncation_and_special_tokens_are_left_out():
    for shape in (bert(), byte_level()):
        tokenizer = SubwordTokenizer(shape, None)
        ids = tokenizer.encode("the cat sat on the mat " * 200)
        assert len(ids) > 1000 and not set(ids) & {token["id"] for token in shape["added_tokens"]}


@pytest.mark.parametrize(
    ("shape", "text", "expected"),
    [
        ("gpt2", "the cat", 3),
        ("gpt2", "жж", 1),
        ("gpt2", "\U0001f600", 1),
        ("bert", "  The cat", 5),
        ("bert", "ééé", 6),
        ("sentencepiece", "the cat", 3),
    ],
)
def test_bytes_of_the_first_token(shape, text, expected):
    tokenizer = SubwordTokenizer(SHAPES[shape], None)
    assert tokenizer.first_token_bytes(text) == expected
    assert scored_text_bytes(["", text, "x"], tokenizer) == len(text.encode()) + 1 - expected


def config(tmp_path, **settings):
    return TextCorpusConfig(path="unused", cache_dir=str(tmp_path / "cache"), sequence_length=4, **settings)


def given(documents):
    return given_splits({split: in_memory(texts) for split, texts in documents.items()})


def test_unknown_words_are_a_warning_with_their_share(tmp_path):
    tokenizer = SubwordTokenizer(bert(), "[SEP]")
    documents = {"train": ["the cat sat"], "val": ["the zebra sat on the mat"]}
    for _ in ("built", "cached"):
        with pytest.warns(UserWarning, match=r"12.50% of the tokens of val are unknown"):
            splits = TextSplits(config(tmp_path), "s", lambda: given(documents), tokenizer)
        assert splits.spec.special_tokens == tokenizer.special_ids
    assert tokenizer.special_ids == {"padding": 0, "unknown": 1, "begin": 2, "separator": 3, "end_of_text": 3}


def test_a_tokenizer_that_drops_capitals_gives_no_bits_per_byte(tmp_path, recwarn):
    documents = {"train": ["the cat sat"], "val": ["The cat sat on the mat"]}

    def bytes_per_token(tokenizer):
        return TextSplits(config(tmp_path), "s", lambda: given(documents), tokenizer).spec.bytes_per_token

    assert bytes_per_token(SubwordTokenizer(byte_level(), "<|endoftext|>")).keys() == {"train", "val"}
    assert bytes_per_token(SubwordTokenizer(bert(), "[SEP]")) == {}
    assert not recwarn


@pytest.mark.parametrize("documents", [["the cat sat on the mat; é " * 4], ["the cat", "日本 the mat"]])
@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "gpt2"])
def test_the_same_nats_over_the_same_bytes_are_the_same_bits_per_byte(tmp_path, documents, kind):
    """bits per byte = nats per token / ln 2 / bytes per token: whatever the tokens, the scored bytes are the text's."""
    given_one = {
        "byte": ByteTokenizer(True),
        "char": CharTokenizer(characters_of(documents), True),
        "gpt2": SubwordTokenizer(byte_level(), "<|endoftext|>"),
        "bpe": None,
    }[kind]
    settings = {"tokenizer": Tokenizer.bpe, "vocab_size": 260} if kind == "bpe" else {}
    splits = TextSplits(
        config(tmp_path, **settings), "s", lambda: given({"train": [*documents, "the"], "val": documents}), given_one
    )
    targets = splits.dataset("val").num_targets
    total_nats = 100.0
    loss = total_nats / targets
    bits_per_byte = loss / np.log(2) / splits.spec.bytes_per_token["val"]
    assert bits_per_byte == pytest.approx(total_nats / np.log(2) / sum(len(text.encode()) for text in documents))


def test_what_would_vanish_without_a_trace_is_refused():
    shape = byte_level()
    del shape["model"]["vocab"]["é" if "é" in shape["model"]["vocab"] else "z"]
    shape["model"]["vocab"] = {token: number for number, token in enumerate(shape["model"]["vocab"])}
    shape["added_tokens"][0]["id"] = shape["model"]["vocab"]["<|endoftext|>"]
    shape["model"]["merges"] = []
    with pytest.raises(DataError, match="without a trace"):
        SubwordTokenizer(shape, None)
