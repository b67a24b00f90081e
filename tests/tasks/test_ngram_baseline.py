"""Counting models: by hand on ten tokens, as probabilities, and bounded in what they count."""

import numpy as np
import pytest
import torch

from bigtrain.data.base import Dataset
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.nn.kneser_ney import KneserNey, contexts_of
from bigtrain.tasks.ngram_baseline import HigherOrder, NgramModel

TEXT = np.array([0, 1, 0, 2, 0, 1, 1, 0, 1, 0], dtype=np.uint8)  # nine targets: 1 0 2 0 1 1 0 1 0
VOCAB_SIZE = 4


def test_ten_tokens_by_hand():
    model = NgramModel(TokenWindows(TEXT, 4, "train"), VOCAB_SIZE)
    assert model.tokens == 9 and model.whole
    # Targets: 0 four times, 1 four times, 2 once; three kinds of four: (c + 3/4) / (9 + 3).
    unigram = np.array([4.75, 4.75, 1.75, 0.75]) / 12
    np.testing.assert_allclose(model.unigram(np.arange(4)), unigram, rtol=1e-15)
    # After 0: three times 1, once 2 (two kinds, of four). After 1: three times 0, once 1. After 2: once 0. After 3: -.
    expected = np.array(
        [
            (np.array([0, 3, 1, 0]) + 2 * unigram) / 6,
            (np.array([3, 1, 0, 0]) + 2 * unigram) / 6,
            (np.array([1, 0, 0, 0]) + 1 * unigram) / 2,
            unigram,
        ]
    )
    before, token = np.divmod(np.arange(16), 4)
    np.testing.assert_allclose(model.bigram(before, token).reshape(4, 4), expected, rtol=1e-15)

    val = TokenWindows(np.array([0, 1, 3, 3, 2], dtype=np.uint8), 3, "val")
    losses = model.losses(val)
    assert losses["unigram_loss"] == pytest.approx(-np.log(unigram[[1, 3, 3, 2]]).mean(), rel=1e-14)
    bigram = [expected[0, 1], expected[1, 3], expected[3, 3], expected[3, 2]]
    assert losses["bigram_loss"] == pytest.approx(-np.log(bigram).mean(), rel=1e-14)


def test_probabilities_add_up_to_one_and_counting_in_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    stream = rng.zipf(1.5, 5000) % 50
    windows = TokenWindows(stream.astype(np.uint8), 7, "train")
    model = NgramModel(windows, 60)
    token = np.arange(60)
    np.testing.assert_allclose(model.unigram(token).sum(), 1, rtol=1e-12)
    for before in token:
        np.testing.assert_allclose(model.bigram(np.full(60, before), token).sum(), 1, rtol=1e-12)
    monkeypatch.setattr("bigtrain.tasks.ngram_baseline._CHUNK_TOKENS", 100)
    assert NgramModel(windows, 60).losses(windows) == model.losses(windows)


def test_only_scored_targets_count():
    class Half(Dataset):
        def __len__(self):
            return 2

        def gather(self, ids):
            tokens = torch.tensor([[0, 1, 2], [0, 1, 3]])[ids]
            return {"tokens": tokens, "scored": torch.tensor([[False, True], [False, True]])[ids]}

    model = NgramModel(Half(), 4)
    assert model.tokens == 2
    assert model.losses(Half())["bigram_loss"] == pytest.approx(-np.log((1 + 2 * (1 + 2 / 4) / 4) / 4))


def test_of_a_huge_text_the_beginning_is_counted():
    stream = np.arange(3_000_000) % 7
    model = NgramModel(TokenWindows(stream.astype(np.uint8), 999, "train"), 7, max_tokens=100_000)
    assert model.tokens == 100 * 999 and not model.whole


def test_a_large_vocabulary_takes_no_square_of_memory():
    import tracemalloc

    stream = np.random.default_rng(0).integers(50_000, size=20_000)
    windows = TokenWindows(stream.astype(np.uint16), 100, "train")
    tracemalloc.start()
    model = NgramModel(windows, 50_000)
    assert np.isfinite(model.losses(windows)["bigram_loss"])
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_five_grams_go_on_from_window_to_window(monkeypatch):
    stream = np.random.default_rng(0).zipf(1.5, 900) % 7
    train, val = (TokenWindows(part.astype(np.uint8), 10, "train") for part in (stream[:800], stream[800:]))
    text, other = (torch.tensor(part)[None] for part in (stream[:800], stream[800:]))
    by_hand = KneserNey(5, 8, text).probabilities(contexts_of(other, 4)[0], other[0, 1:])
    model = HigherOrder(train, 8)
    assert model.loss(val) == pytest.approx(-float(by_hand.log().mean()), rel=1e-12) and model.whole
    monkeypatch.setattr("bigtrain.tasks.ngram_baseline._CHUNK_TOKENS", 7)
    assert model.loss(val) == pytest.approx(-float(by_hand.log().mean()), rel=1e-12)
    assert not HigherOrder(train, 8, max_tokens=100).whole
