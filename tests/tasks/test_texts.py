"""What an encoder reads: every token in its place, two halves with their marks, padding on the right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.randomness import sample_keys
from bigtrain.tasks.texts import FOLLOWS, STRANGER, Frame, one_text, sentence, two_texts

CLS, SEP = 2, 3
FRAMES = [Frame(CLS, SEP), Frame(SEP, SEP), Frame(None, None), Frame(None, SEP)]


def windows(count, length, full=None, seed=0, prefix=""):
    """Windows of T+1 tokens, of which each has so many real ones after the first (by default, all)."""
    tokens = np.random.default_rng(seed).integers(5, 1000, (count, length + 1))
    full = np.full(count, length) if full is None else np.array(full)
    scored = np.arange(length) < full[:, None]
    tokens[:, 1:] *= scored
    return {f"{prefix}tokens": torch.from_numpy(tokens), f"{prefix}scored": torch.from_numpy(scored)}


def pairs(count, length, seed=0, full=None, partner_full=None):
    keys = torch.from_numpy(sample_keys(seed, 0, np.arange(count)).view(np.int64))
    partner = windows(count, length, partner_full, seed + 1, "partner_")
    return windows(count, length, full, seed) | partner | {"keys": keys}


def test_one_text_is_the_mark_and_the_tokens_between_two_windows():
    samples = windows(3, 8)
    texts = one_text(samples, Frame(CLS, SEP))
    assert texts.tokens.shape == (3, 8) and (texts.tokens[:, 0] == CLS).all()
    assert np.array_equal(texts.tokens[:, 1:], samples["tokens"][:, 1:-1])
    assert texts.present.all() and not texts.segments.any()
    assert texts.guessable.tolist() == [[False] + [True] * 7] * 3
    bare = one_text(samples, Frame(None, None))
    assert np.array_equal(bare.tokens, samples["tokens"][:, :-1]) and not bare.guessable[:, 0].any()


def test_the_end_of_a_stream_is_padded_and_what_is_only_read_stays():
    samples = windows(2, 6, full=[6, 2])
    texts = one_text(samples, Frame(CLS, SEP))
    assert texts.present.sum(axis=1).tolist() == [6, 3]
    assert texts.tokens[1].tolist() == [CLS, *samples["tokens"][1, 1:3].tolist(), 0, 0, 0]
    samples["scored"][0] = torch.tensor([False, False, True, True, True, True])  # as data/synthetic/copy.py has it
    texts = one_text(samples, Frame(CLS, SEP))
    assert texts.present[0].all() and texts.guessable[0].tolist() == [False, False, False, True, True, True]


def test_sentences_are_read_as_they_come():
    tokens = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    texts = sentence({"tokens": tokens, "lengths": torch.tensor([4, 3])})
    assert np.array_equal(texts.tokens, tokens) and not texts.segments.any()
    assert texts.present.tolist() == texts.guessable.tolist() == [[True] * 4, [True] * 3 + [False]]


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@given(st.integers(5, 20), st.integers(0, 50), st.data())
@settings(deadline=None, max_examples=30)
def test_two_texts_are_halves_in_their_frame(frame, length, seed, data):
    count = 4
    lengths = st.lists(st.integers(0, length), min_size=count, max_size=count)
    full, partner_full = data.draw(lengths), data.draw(lengths)
    samples = pairs(count, length, seed, full, partner_full)
    texts, labels = two_texts(samples, frame)
    assert all(array.shape == (count, length) for array in texts)
    begin, middle, end = ([] if mark is None else [mark] for mark in (frame.begin, frame.separator, frame.separator))
    room = length - len(begin + middle + end)
    half = (room + 1) // 2
    for row in range(count):
        own = samples["tokens"][row, 1 : 1 + full[row]].tolist()
        partner = samples["partner_tokens"][row, 1 : 1 + partner_full[row]].tolist()
        possible = []
        for label, source in ((FOLLOWS, own), (STRANGER, partner)):
            first, second = own[:half], source[half:room]
            text = begin + first + middle + second + end
            segments = [0] * len(begin + first + middle) + [1] * len(second + end)
            possible.append((label if first and second else -100, text, segments))
        present = texts.present[row]
        found = (labels[row], texts.tokens[row][present].tolist(), texts.segments[row][present].tolist())
        assert found in possible
        assert present.tolist() == sorted(present, reverse=True)
        assert not texts.tokens[row][~present].any() and not texts.segments[row][~present].any()
        guessed = texts.tokens[row][texts.guessable[row]]
        assert len(guessed) == len(found[1]) - len(begin + middle + end) and CLS not in guessed


def test_half_of_the_second_texts_are_strangers_by_the_key():
    samples = pairs(4000, 8)
    labels = two_texts(samples, Frame(CLS, SEP))[1]
    assert abs((labels == STRANGER).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    some = {name: value[100:120] for name, value in samples.items()}
    assert np.array_equal(two_texts(some, Frame(CLS, SEP))[1], labels[100:120])


def test_a_window_that_is_its_own_partner_follows_itself():
    samples = pairs(100, 8)
    samples["partner_tokens"], samples["partner_scored"] = samples["tokens"], samples["scored"]
    assert (two_texts(samples, Frame(CLS, SEP))[1] == FOLLOWS).all()
