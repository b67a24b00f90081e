"""Streams keep documents apart; windows make every token but the first a target exactly once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text.token_stream import TokenWindows, join_documents, scored_text_bytes, token_dtype
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer
from bigtrain.errors import DataError


@given(st.integers(2, 200), st.integers(1, 40), st.randoms())
@settings(deadline=None)
def test_every_target_once_with_all_its_context(length, sequence_length, random):
    stream = np.arange(1, length + 1, dtype=np.uint8)
    windows = TokenWindows(stream, sequence_length, "train")
    ids = list(range(len(windows)))
    random.shuffle(ids)
    samples = windows.gather(np.array(ids))
    tokens, scored = samples["tokens"].numpy(), samples["scored"].numpy()
    assert tokens.shape == (len(ids), sequence_length + 1) and scored.shape == (len(ids), sequence_length)
    assert tokens.dtype == np.int64 and scored.dtype == bool
    assert sorted(tokens[:, 1:][scored].tolist()) == list(range(2, length + 1))
    assert (tokens[:, :-1][scored] + 1 == tokens[:, 1:][scored]).all()
    assert (tokens[:, 1:][~scored] == 0).all()
    assert scored.sum() == windows.num_targets == length - 1


def test_ids_may_repeat_and_must_exist():
    windows = TokenWindows(np.arange(10, dtype=np.uint8), 4, "train")
    assert windows.gather(np.array([1, 1, 2]))["tokens"].tolist() == [[4, 5, 6, 7, 8]] * 2 + [[8, 9, 0, 0, 0]]
    assert windows.gather(np.array([], dtype=np.int64))["tokens"].shape == (0, 5)
    for wrong in (-1, 3):
        with pytest.raises(IndexError):
            windows.gather(np.array([wrong]))


def test_a_memory_map_is_left_unchanged(tmp_path):
    np.save(tmp_path / "s.npy", np.arange(10, dtype=np.uint8))
    stream = np.load(tmp_path / "s.npy", mmap_mode="r")
    windows = TokenWindows(stream, 4, "train")
    windows.gather(np.arange(3))["tokens"].zero_()
    assert windows.gather(np.array([0]))["tokens"].tolist() == [[0, 1, 2, 3, 4]]


def test_which_document_of_its_window_a_token_belongs_to():
    stream = np.array([9, 1, 2, 9, 3, 9, 9, 4, 5, 9], dtype=np.uint8)
    documents = TokenWindows(stream, 4, "train", separator=9).gather(np.arange(3))["documents"]
    assert documents.tolist() == [[1, 1, 1, 2], [0, 1, 2, 2], [0, 1, 1, 1]]
    assert "documents" not in TokenWindows(stream, 4, "train").gather(np.arange(3))


@pytest.mark.parametrize("length", [0, 1])
def test_too_short_a_stream_is_an_error_that_names_the_split(length):
    with pytest.raises(DataError, match="the val split"):
        TokenWindows(np.zeros(length, dtype=np.uint8), 4, "val")


def test_end_of_text_stands_around_each_document():
    stream = join_documents(["ab", "é"], ByteTokenizer(end_of_text=True))
    assert stream.tolist() == [256, 97, 98, 256, 0xC3, 0xA9, 256] and stream.dtype == np.uint16
    assert join_documents(["ab", "c"], ByteTokenizer()).tolist() == [97, 98, 99]


@pytest.mark.parametrize(
    ("documents", "tokenizer", "expected"),
    [
        (["ab", "é"], ByteTokenizer(True), 4),
        (["abé"], ByteTokenizer(), 3),
        (["éab"], ByteTokenizer(), 3),
        (["éab"], CharTokenizer("abé"), 2),
        (["abé"], CharTokenizer("abé"), 3),
    ],
)
def test_bytes_are_those_of_the_scored_text(documents, tokenizer, expected):
    assert scored_text_bytes(documents, tokenizer) == expected


def test_the_smallest_type_that_holds_the_vocabulary():
    assert [token_dtype(size) for size in (256, 257, 65536, 65537)] == [
        np.uint8,
        np.uint16,
        np.uint16,
        np.uint32,
    ]
