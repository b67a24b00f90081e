"""Tokenisers give back what they were given, say what they can't represent, and trust no tokenizer.json."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, characters_of
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(texts, st.booleans())
@settings(deadline=None)
def test_byte_round_trip(text, end_of_text):
    tokenizer = ByteTokenizer(end_of_text)
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode()) and ids.dtype == np.int64
    assert tokenizer.decode(ids) == text


@given(texts.filter(bool), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_char_round_trip(text, end_of_text, unknown):
    tokenizer = CharTokenizer(characters_of([text]), end_of_text, unknown)
    assert tokenizer.encode(text).tolist() == [sorted(set(text)).index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(set(text)) + end_of_text + unknown


def test_text_longer_than_a_chunk_with_ascii_and_other_parts():
    text = "a" * 70_000 + "é" * 70_000 + "日本" + "b" * 70_000
    tokenizer = CharTokenizer(characters_of([text]))
    assert tokenizer.decode(tokenizer.encode(text, np.uint8)) == text


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(True), CharTokenizer("ab é", True, True)], ids=["byte", "char"])
def test_special_and_strange_ids_decode(tokenizer):
    ids = [
        *tokenizer.encode("ab"),
        tokenizer.end_of_text,
        *tokenizer.encode("é"),
        tokenizer.vocab_size,
        10**6,
        -1,
    ]
    assert tokenizer.decode(np.array(ids)) == "ab\n\né\ufffd\ufffd\ufffd"
    assert tokenizer.decode(np.array([], dtype=np.int64)) == ""


def test_broken_utf8_becomes_the_replacement_character():
    assert ByteTokenizer().decode(np.array([0x61, 0xC3, 0x28])) == "a\ufffd("


@pytest.mark.parametrize("stranger", ["z", "ß", "😀"])
def test_a_character_without_an_id_is_an_error_or_unknown(stranger):
    with pytest.raises(DataError, match="DATA-CHARACTER"):
        CharTokenizer("abc").encode("ab" + stranger)
    tokenizer = CharTokenizer("abc", end_of_text=True, unknown=True)
    assert tokenizer.encode("a" + stranger).tolist() == [0, tokenizer.unknown] == [0, 4]
    assert tokenizer.decode(np.array([0, 4])) == "a\ufffd"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("ab", unknown=True)], ids=["byte", "char"])
def test_lone_surrogates_are_an_error(tokenizer):
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), ByteTokenizer(True), CharTokenizer("bca"), CharTokenizer("é\n", True, True)],
)
def test_json_round_trip(tokenizer):
    again = tokenizer_from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer) and again.to_json() == tokenizer.to_json()
    assert (again.vocab_size, again.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"kind": ["byte"]},
        {"kind": "byte"},
        {"kind": "byte", "end_of_text": 1},
        {"kind": "byte", "end_of_text": True, "extra": 0},
        {"kind": "char", "characters": "", "end_of_text": False, "unknown": False},
        {"kind": "char", "characters": "ba", "end_of_text": False, "unknown": False},
        {"kind": "char", "characters": "aa", "end_of_text": False, "unknown": False},
        {"kind": "char", "characters": "\ud800", "end_of_text": False, "unknown": False},
        {"kind": "char", "characters": "a" * 300_000, "end_of_text": False, "unknown": False},
    ],
)
def test_a_strange_tokenizer_file_is_refused_by_name(document):
    with pytest.raises(DataError):
        tokenizer_from_json(document, "some/tokenizer.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["kind", "end_of_text", "characters", "unknown"]), json_values), st.data())
@settings(deadline=None)
def test_any_json_gives_a_tokenizer_or_a_data_error(document, data):
    document["kind"] = data.draw(st.sampled_from(["byte", "char", 3]))
    try:
        tokenizer = tokenizer_from_json(document)
    except DataError:
        return
    assert tokenizer.to_json() == document
