"""Augmented texts are a function of the keys, keep their frame, and change as often as asked."""

import numpy as np
import pytest
import torch

from bigtrain.data.text.augment import augmentation
from bigtrain.data.text.config import TextAugmentConfig
from bigtrain.randomness import sample_keys

BEGIN, END = 1, 2


def samples(lengths, seed=0):
    """Texts whose tokens all differ, with keys of one epoch."""
    lengths = np.array(lengths)
    tokens = np.zeros((len(lengths), lengths.max()), dtype=np.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = [BEGIN, *range(10, 8 + length), END]
    keys = sample_keys(seed, 0, np.arange(len(lengths))).view(np.int64)
    return {"tokens": torch.tensor(tokens), "lengths": torch.tensor(lengths), "keys": torch.tensor(keys)}


def texts(samples):
    return [row[:length].tolist() for row, length in zip(samples["tokens"], samples["lengths"], strict=True)]


BOTH = TextAugmentConfig(word_dropout=0.3, word_swap=0.3)
LENGTHS = [3, 12, 7, 3, 4, 30, 2]


def test_nothing_asked_for_is_nothing():
    assert augmentation(TextAugmentConfig()) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_frame_stays_and_padding_is_right(seed):
    before = samples(LENGTHS, seed)
    after = augmentation(BOTH)(before)
    assert after["tokens"].dtype is torch.int64 and after["tokens"].shape[1] == after["lengths"].max()
    for old, new in zip(texts(before), texts(after), strict=True):
        assert (new[0], new[-1]) == (BEGIN, END)
        assert set(new[1:-1]) <= set(old[1:-1]) and len(set(new)) == len(new)
        assert len(new) >= min(len(old), 3)
    padding = torch.arange(after["tokens"].shape[1]) >= after["lengths"][:, None]
    assert (after["tokens"][padding] == 0).all()


def test_a_sample_changes_alike_in_any_batch():
    batch = samples(LENGTHS)
    whole = texts(augmentation(BOTH)(batch))
    for row in range(len(LENGTHS)):
        length = LENGTHS[row]
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone["tokens"] = alone["tokens"][:, :length]
        assert texts(augmentation(BOTH)(alone)) == whole[row : row + 1]
    assert texts(augmentation(BOTH)(samples(LENGTHS, seed=1))) != whole


def test_the_share_of_dropped_tokens_is_the_probability():
    after = augmentation(TextAugmentConfig(word_dropout=0.2))(samples([52] * 2000))
    assert after["lengths"].sub(2).double().mean().item() == pytest.approx(40, abs=0.3)  # 4.4 standard errors
    assert all(text == sorted(text[:-1]) + [END] for text in texts(after))


def test_everything_dropped_leaves_one_token():
    after = augmentation(TextAugmentConfig(word_dropout=0.999999))(samples([10] * 50))
    assert set(after["lengths"].tolist()) == {3}
    assert len({text[1] for text in texts(after)}) == 8  # any of them


def test_swapped_pairs_are_neighbours_and_as_many_as_asked():
    after = texts(augmentation(TextAugmentConfig(word_swap=0.25))(samples([42] * 2000)))
    moved = np.array([text[1:-1] for text in after]) - np.arange(10, 50)
    assert set(np.unique(moved)) == {-1, 0, 1} and (moved.sum(axis=1) == 0).all()
    # Pairs begin at the first or second of 40 tokens: 20 or 19 of them, two tokens move in each.
    assert np.abs(moved).sum(axis=1).mean() == pytest.approx(0.25 * (40 + 38) / 2, abs=0.3)
    assert (moved[:, 0] != 0).any() and (moved[:, -1] != 0).any()
    assert texts(augmentation(TextAugmentConfig(word_swap=1.0))(samples([3, 2]))) == texts(samples([3, 2]))


def test_what_it_was_given_stays_as_it_was():
    before = samples(LENGTHS)
    kept = texts(before)
    augmentation(BOTH)(before)
    assert texts(before) == kept
