"""Splits share out documents by fraction, the same way everywhere, and none comes out empty in silence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.division import divide
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer
from bigtrain.errors import DataError

documents_lists = st.lists(st.text("abc", min_size=1, max_size=30), min_size=3, max_size=30)


def config(tmp_path, **settings):
    return TextCorpusConfig(path="unused", cache_dir=str(tmp_path / "cache"), sequence_length=4, **settings)


def divide_texts(documents, split):
    return divide(in_memory(documents), split)


def divided(documents, split):
    """The documents of each split."""
    found = divide_texts(documents, split)
    parts = {name: [""] for name in found.splits}
    for name, text, ends in found:
        parts[name][-1] += text
        parts[name] += [""] * ends
    return {name: texts[:-1] for name, texts in parts.items()}


@given(documents_lists)
@settings(deadline=None)
def test_each_document_joins_exactly_one_split_in_its_old_order(documents):
    numbered = [f"{number}:{text}" for number, text in enumerate(documents)]
    parts = divided(numbered, "0.6,0.2,0.2")
    assert sorted(sum(parts.values(), [])) == sorted(numbered)
    for part in parts.values():
        assert part and part == sorted(part, key=numbered.index)


def test_fractions_are_met_when_documents_are_many():
    documents = [f"document {number} " + "x" * (number % 50) for number in range(2000)]
    total = sum(map(len, documents))
    parts = divided(documents, "0.8,0.15,0.05")
    shares = {name: sum(map(len, part)) / total for name, part in parts.items()}
    assert shares == pytest.approx({"train": 0.8, "val": 0.15, "test": 0.05}, abs=0.001)


@given(documents_lists, st.randoms())
@settings(deadline=None)
def test_the_order_of_the_files_does_not_matter(documents, random):
    documents = list(dict.fromkeys(documents))
    if len(documents) < 3:
        return
    shuffled = random.sample(documents, len(documents))
    first, second = divided(documents, "0.5,0.3,0.2"), divided(shuffled, "0.5,0.3,0.2")
    assert {name: sorted(part) for name, part in first.items()} == {name: sorted(part) for name, part in second.items()}


def test_a_single_document_is_cut_between_characters():
    text = "é" * 90 + "日" * 10
    parts = divided([text], "0.9,0.05,0.05")
    assert parts == {"train": ["é" * 90], "val": ["日" * 5], "test": ["日" * 5]}


@given(documents_lists)
@settings(deadline=None)
def test_nanogpt_takes_the_last_tenth_of_the_characters(documents):
    data = "".join(documents)
    cut = int(len(data) * 0.9)
    if not data[:cut]:
        return
    parts = divided(documents, "nanogpt")
    assert "".join(parts["train"]) == data[:cut] and "".join(parts["val"]) == data[cut:]
    assert set(parts) == {"train", "val"}


@pytest.mark.parametrize(
    ("documents", "split", "empty"),
    [
        (["a"], "0.9,0.05,0.05", "val"),
        (["ab", "cd"], "0.5,0.25,0.25", "train"),
        (["a"], "nanogpt", "train"),
    ],
)
def test_an_empty_split_is_an_error_with_its_name(documents, split, empty):
    with pytest.raises(DataError, match=f"the {empty} split would be empty"):
        divided(documents, split)


def test_a_test_split_of_nothing_is_an_error_only_when_asked_for(tmp_path):
    splits = TextSplits(config(tmp_path), "s", lambda: divide_texts(["a" * 100], "0.9,0.1,0"), None)
    assert set(splits.spec.sizes) == {"train", "val"}
    with pytest.raises(DataError, match="there is no test split"):
        splits.dataset("test")


def test_the_cache_gives_the_same_again_without_reading(tmp_path):
    def never():
        raise AssertionError("read although it was in the cache")

    settings = config(tmp_path, tokenizer=Tokenizer.char)
    first = TextSplits(settings, "s", lambda: divide_texts(["some text", "é more", "x"] * 9, "nanogpt"), None)
    second = TextSplits(settings, "s", never, None)
    assert first.spec == second.spec and first.tokenizer.to_json() == second.tokenizer.to_json()
    ids = np.arange(first.spec.sizes["val"])
    assert (first.dataset("val").gather(ids)["tokens"] == second.dataset("val").gather(ids)["tokens"]).all()


def test_the_fingerprint_is_of_the_samples_not_of_the_source(tmp_path):
    def spec(source, text, **settings):
        return TextSplits(config(tmp_path, **settings), source, lambda: divide_texts([text], "nanogpt"), None).spec

    same = spec("here", "a" * 50)
    assert spec("elsewhere", "a" * 50).fingerprint == same.fingerprint
    assert spec("changed", "a" * 49 + "b").fingerprint != same.fingerprint
    assert spec("here", "a" * 50, tokenizer=Tokenizer.char).fingerprint != same.fingerprint


def test_end_of_text_exists_only_where_documents_are_kept_apart(tmp_path):
    one = TextSplits(config(tmp_path), 1, lambda: divide_texts(["abcdefghij" * 5], "nanogpt"), None)
    two = TextSplits(config(tmp_path), 2, lambda: divide_texts(["abcdefghij" * 5, "k" * 9], "nanogpt"), None)
    assert (one.spec.vocab_size, one.spec.special_tokens) == (256, {})
    assert (two.spec.vocab_size, two.spec.special_tokens) == (257, {"end_of_text": 256})
    assert one.spec.bytes_per_token["train"] == 1.0
    assert two.spec.bytes_per_token["train"] == pytest.approx(53 / 55)  # two documents, three end_of_text


def test_characters_that_only_val_has_become_one_unknown_token_and_a_warning(tmp_path):
    settings = config(tmp_path, tokenizer=Tokenizer.char)
    for _ in ("built", "cached"):
        with pytest.warns(UserWarning, match="val never occur in train: y z"):
            splits = TextSplits(settings, "s", lambda: divide_texts(["ab" * 45 + "zyzyzababa"], "nanogpt"), None)
    assert splits.tokenizer.to_json()["characters"] == "ab"
    assert splits.spec.special_tokens == {"unknown": 2} and splits.spec.vocab_size == 3
    assert splits.dataset("val").gather(np.array([0]))["tokens"].tolist() == [[2, 2, 2, 2, 2]]


def test_the_tokenizer_that_was_fitted_finds_the_same_cache(tmp_path):
    first = TextSplits(config(tmp_path), "s", lambda: divide_texts(["ab" * 30], "nanogpt"), None)
    second = TextSplits(config(tmp_path), "s", lambda: pytest.fail("read again"), first.tokenizer)
    assert first.spec == second.spec


def test_a_given_tokenizer_is_used_as_it_is(tmp_path):
    given_one = CharTokenizer("abcd")
    splits = TextSplits(config(tmp_path), "s", lambda: divide_texts(["ab" * 30], "nanogpt"), given_one)
    assert splits.tokenizer is given_one and splits.spec.vocab_size == 4
    with pytest.raises(DataError, match="DATA-CHARACTER"):
        TextSplits(config(tmp_path), "t", lambda: divide_texts(["xy" * 30], "nanogpt"), given_one)
    joined = TextSplits(config(tmp_path), "u", lambda: divide_texts(["ab" * 30, "c"], "nanogpt"), ByteTokenizer())
    assert joined.spec.vocab_size == 256
