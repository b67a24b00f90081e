"""Stretches of a corpus that stand in another, wherever they begin."""

import numpy as np
import pytest

from bigtrain.data.audit import stretches
from bigtrain.data.audit.stretches import known_stretches
from bigtrain.data.text.token_stream import TokenWindows

TRAIN = np.random.default_rng(0).integers(200, size=5000).astype(np.uint8)
NEW = np.random.default_rng(1).integers(200, size=1000).astype(np.uint8)


def windows(stream, length=64):
    return TokenWindows(stream, length, "train")


@pytest.mark.parametrize("read", [1, 3, 8192])
def test_copied_parts_are_counted(monkeypatch, read):
    monkeypatch.setattr(stretches, "_READ", read)
    mixed = np.concatenate((NEW[:103], TRAIN[777:1077], NEW[103:200]))
    # Of 500 tokens, stretches of 20: those that begin at 120, 140, … 380 lie within the copy.
    assert known_stretches(windows(mixed), windows(TRAIN), 20) == (14, 25)
    assert known_stretches(windows(NEW), windows(TRAIN), 20) == (0, 50)
    assert known_stretches(windows(TRAIN[3:]), windows(TRAIN), 50) == (99, 99)


def test_the_same_tokens_in_another_order_are_another_stretch():
    assert known_stretches(windows(TRAIN[99::-1].copy()), windows(TRAIN), 10) == (0, 10)
    assert known_stretches(windows(np.zeros(100, dtype=np.uint8)), windows(np.zeros(30, dtype=np.uint8)), 20) == (5, 5)


def test_what_is_shorter_than_a_stretch_is_one():
    assert known_stretches(windows(TRAIN[5:12]), windows(TRAIN), 50) == (1, 1)
    assert known_stretches(windows(NEW[:30]), windows(TRAIN[:10]), 20) == (0, 1)
