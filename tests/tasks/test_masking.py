"""Masking is a pure function of the keys: BERT's shares, exactly as many as asked for, whole words whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.randomness import sample_keys
from bigtrain.tasks.masking import choose, hide, num_slots, number_words, positions_of

MASK_ID, ORDINARY = 50, np.arange(5, 50)


def keys(count, seed=0):
    return sample_keys(seed, 0, np.arange(count))


@st.composite
def rows(draw):
    """(keys, allowed (B, T), rate, whether each token begins a word)."""
    count, length = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    allowed = rng.random((count, length)) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    begins = rng.random((count, length)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    return keys(count, draw(st.integers(0, 99))), allowed, draw(st.sampled_from([0.01, 0.15, 0.5, 1.0])), begins


@given(rows())
@settings(deadline=None)
def test_so_many_of_the_allowed_tokens_are_chosen_and_fit_the_slots(row):
    keys_B, allowed, rate, _ = row
    chosen = choose(keys_B, allowed, rate)
    counts = allowed.sum(axis=1)
    expected = np.minimum(counts, np.maximum(1, np.rint(rate * counts)))
    assert not (chosen & ~allowed).any()
    assert chosen.sum(axis=1).tolist() == expected.tolist()
    positions, scored = positions_of(chosen, num_slots(rate, allowed.shape[1]))
    assert positions.shape[1] == num_slots(rate, allowed.shape[1])
    for line, places, ok in zip(chosen, positions, scored, strict=True):
        assert places[ok].tolist() == np.flatnonzero(line).tolist()


@given(rows())
@settings(deadline=None)
def test_whole_words_are_chosen_or_left_whole(row):
    keys_B, allowed, rate, begins = row
    words = number_words(begins, allowed)
    chosen = choose(keys_B, allowed, rate, words)
    budget = np.maximum(1, np.rint(rate * allowed.sum(axis=1)))
    assert not (chosen & ~allowed).any() and (chosen.sum(axis=1) <= budget).all()
    for line, word, may, most in zip(chosen, words, allowed, budget, strict=True):
        sizes = np.bincount(word)
        for number in np.unique(word):
            assert line[word == number].min() == line[word == number].max()
        possible = may & (sizes[word] <= most)
        assert line.any() == possible.any()
        if (possible & ~line).any():  # then the next word drawn did not fit
            assert line.sum() + sizes[word[possible]].max() > most


@given(rows())
@settings(deadline=None)
def test_a_row_is_masked_alike_alone_and_in_any_company(row):
    keys_B, allowed, rate, begins = row
    tokens = np.random.default_rng(0).choice(ORDINARY, allowed.shape)
    words = number_words(begins, allowed)
    for given_words in (None, words):
        chosen = choose(keys_B, allowed, rate, given_words)
        hidden = hide(keys_B, tokens, chosen, MASK_ID, ORDINARY)
        for index in range(len(keys_B)):
            one = slice(index, index + 1)
            alone = choose(keys_B[one], allowed[one], rate, None if given_words is None else given_words[one])
            assert np.array_equal(alone, chosen[one])
            assert np.array_equal(hide(keys_B[one], tokens[one], alone, MASK_ID, ORDINARY), hidden[one])


def test_padding_on_the_right_moves_no_mask():
    allowed = np.ones((20, 30), dtype=bool)
    wider = np.pad(allowed, ((0, 0), (0, 7)))
    assert np.array_equal(choose(keys(20), wider, 0.15)[:, :30], choose(keys(20), allowed, 0.15))


def test_shares_are_bert_s_and_every_position_is_chosen_as_often():
    count, length, rate = 4000, 40, 0.15
    allowed = np.ones((count, length), dtype=bool)
    tokens = np.random.default_rng(0).choice(ORDINARY, (count, length))
    chosen = choose(keys(count), allowed, rate)
    hidden = hide(keys(count), tokens, chosen, MASK_ID, ORDINARY)
    assert (hidden == tokens)[~chosen].all()

    read, was = hidden[chosen], tokens[chosen]
    total = chosen.sum()
    assert total == count * 6
    same_by_chance = 0.1 / len(ORDINARY)
    for share, expected in (
        ((read == MASK_ID).mean(), 0.8),
        ((read == was).mean(), 0.1 + same_by_chance),
        (((read != was) & (read != MASK_ID)).mean(), 0.1 - same_by_chance),
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / total)
    assert set(read) == {MASK_ID, *ORDINARY}
    per_position = chosen.mean(axis=0)
    assert np.abs(per_position - rate).max() < 4.5 * np.sqrt(rate * (1 - rate) / count)
    # What becomes of a token does not depend on where it stands, nor on its neighbours.
    masked = (hidden == MASK_ID)[:, :-1] & chosen[:, :-1]
    both = chosen[:, :-1] & chosen[:, 1:]
    follows = (hidden == MASK_ID)[:, 1:][both & masked].mean()
    assert abs(follows - 0.8) < 4 * np.sqrt(0.16 / (both & masked).sum())


def test_another_key_masks_otherwise():
    allowed = np.ones((1, 100), dtype=bool)
    lines = {choose(keys(1, seed), allowed, 0.15).tobytes() for seed in range(50)}
    assert len(lines) == 50


@pytest.mark.parametrize(
    ("begins", "allowed", "words"),
    [
        ([1, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]),
        ([0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]),  # a window may begin inside a word
        ([1, 1, 0, 0, 1], [0, 1, 1, 0, 1], [0, 1, 1, 2, 3]),
        ([0, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 1, 2, 3, 3]),  # what is not allowed is a word of its own
    ],
)
def test_words_are_numbered(begins, allowed, words):
    numbers = number_words(np.array([begins], dtype=bool), np.array([allowed], dtype=bool))
    assert numbers.tolist() == [words]
