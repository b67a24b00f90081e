"""A trained BPE: exact for every text, the same everywhere, learnt from the training split alone."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.division import divide, given_splits
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.tokenizers import subword
from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.subword import BYTE_CHARACTERS
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

from .subword_definitions import TEXT

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
worded = st.lists(st.sampled_from(["the", " cat", "'s", "123", " ", "\n", "日本", "\t", "!", "é", "\r\n"])).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([TEXT, "more"], 400, end_of_text=True)


@given(texts | worded)
@settings(deadline=None)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_looks_like_a_special_token_is_text(tokenizer):
    text = "a<|endoftext|>b"
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_text not in ids and tokenizer.decode(ids) == text
    with_break = np.concatenate([tokenizer.encode("a"), [tokenizer.end_of_text], tokenizer.encode("b")])
    assert tokenizer.decode(with_break) == "a\n\nb"


def test_ids_are_the_bytes_then_the_merges_then_end_of_text(tokenizer):
    vocab = tokenizer.to_json()["definition"]["model"]["vocab"]
    by_id = sorted(vocab, key=vocab.get)
    assert set(by_id[:256]) == set(BYTE_CHARACTERS)
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (tokenizer.vocab_size - 1, len(vocab) + 1)
    assert train_bpe([TEXT], 300, end_of_text=True).vocab_size == 300
    assert train_bpe([TEXT], 300, end_of_text=False).vocab_size == 300
    assert train_bpe([TEXT], 300, end_of_text=False).end_of_text is None


def test_strange_ids_decode_to_the_replacement_character(tokenizer):
    ids = [*tokenizer.encode("the"), tokenizer.vocab_size, *tokenizer.encode("cat"), -1]
    assert tokenizer.decode(np.array(ids)) == "the\ufffdcat\ufffd"
    assert tokenizer.decode(np.array([], dtype=np.int64)) == ""
    assert tokenizer.encode("").tolist() == []


def test_lone_surrogates_are_an_error(tokenizer):
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("a\ud800")


def test_json_round_trip(tokenizer):
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.to_json() == tokenizer.to_json()
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert (again.vocab_size, again.end_of_text, again.unknown) == (tokenizer.vocab_size, tokenizer.end_of_text, None)


def merged(word, ranks):
    """The definition of BPE, done plainly: the earliest learnt pair first, everywhere in the word."""
    while pairs := [pair for pair in zip(word, word[1:], strict=False) if pair in ranks]:
        best, joined, position = min(pairs, key=ranks.get), [], 0
        while position < len(word):
            width = 2 if tuple(word[position : position + 2]) == best else 1
            joined.append("".join(word[position : position + width]))
            position += width
        word = joined
    return word


def words_of(text):
    """ASCII words and marks as GPT-4's pattern takes them, in byte-level letters."""
    return [word.replace(" ", "Ġ") for word in re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]+", text)]


def test_training_and_encoding_agree_with_a_plain_implementation():
    text = "low lower lowest slow slower slowest new newer newest wide wider widest " * 3
    tokenizer = train_bpe([text], 275, end_of_text=False)
    model = tokenizer.to_json()["definition"]["model"]
    counts = {tuple(word): count for word, count in Counter(words_of(text)).items()}
    ids = {token: number for number, token in enumerate(sorted(BYTE_CHARACTERS))}
    merges = []
    for _ in range(275 - 256):
        pairs = Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(list(best))
        ids["".join(best)] = len(ids)
        counts = {tuple(merged(list(word), {best: 0})): count for word, count in counts.items()}
    assert model["merges"] == merges and model["vocab"] == ids
    ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
    plain = [ids[token] for word in words_of(text) for token in merged(list(word), ranks)]
    assert tokenizer.encode(text.rstrip()).tolist() == plain


@given(st.lists(texts | worded, min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_training_on_pieces_is_training_on_the_whole(documents):
    whole = train_bpe([*documents, TEXT], 320, False).to_json()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword, "PIECE_CHARACTERS", 3)
        assert train_bpe([*documents, TEXT], 320, False).to_json() == whole


SCRIPT = """
import json, os, sys
from bigtrain.data.tokenizers.bpe import train_bpe
documents = [" ".join(f"w{i % 97} x{i % 31}y" for i in range(n * 3000, n * 3000 + 3000)) for n in range(8)]
tokenizer = train_bpe(documents, 700, True)
ids = [ids.tolist() for ids in tokenizer.encode_all(documents)]
if os.fork() == 0:
    os._exit(0 if tokenizer.encode(documents[0]).tolist() == ids[0] else 1)
assert os.wait()[1] == 0
print(json.dumps([tokenizer.to_json(), ids]))
"""


def test_any_number_of_threads_gives_the_same_and_a_fork_is_silent():
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    outputs = []
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


def config(tmp_path, **settings):
    settings = {"tokenizer": Tokenizer.bpe, "vocab_size": 300, "sequence_length": 8} | settings
    return TextCorpusConfig(path="unused", cache_dir=str(tmp_path / "cache"), **settings)


def given(documents):
    return given_splits({split: in_memory(texts) for split, texts in documents.items()})


def test_only_the_training_split_is_learnt_from(tmp_path):
    documents = {"train": [TEXT, TEXT[:99]], "val": ["zqxj zqxj " * 50]}
    splits = TextSplits(config(tmp_path), "s", lambda: given(documents), None)
    assert splits.tokenizer.to_json() == train_bpe(documents["train"], 300, True).to_json()
    assert splits.spec.vocab_size == 300 and splits.spec.special_tokens == {"end_of_text": 299}


def test_it_is_kept_in_the_cache_by_its_size(tmp_path):
    def never():
        raise AssertionError("read although it was in the cache")

    first = TextSplits(config(tmp_path), "s", lambda: divide(in_memory([TEXT]), "nanogpt"), None)
    assert TextSplits(config(tmp_path), "s", never, None).spec == first.spec
    assert TextSplits(config(tmp_path), "s", never, first.tokenizer).spec == first.spec
    with pytest.raises(AssertionError):
        TextSplits(config(tmp_path, vocab_size=301), "s", never, None)


def test_a_text_too_small_for_the_vocabulary_is_a_warning_each_time(tmp_path):
    read = lambda: given({"train": ["ab ab ab"], "val": ["abc xyz"]})  # noqa: E731
    for _ in ("built", "cached"):
        with pytest.warns(UserWarning, match=r"a vocabulary of 258 tokens, not 300"):
            splits = TextSplits(config(tmp_path), "s", read, None)
    assert splits.spec.vocab_size == 258  # two merges: "ab", " ab"
