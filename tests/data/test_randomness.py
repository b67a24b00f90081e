"""Random numbers are functions of their keys: uniform, unrelated to each other, and the same for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.randomness import mix, mix_array, sample_keys, uniforms

COUNT = 100_000
IDS = np.arange(COUNT)


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_uniforms_are_uniform(seed):
    numbers = uniforms(sample_keys(seed, 0, IDS), 4, domain=7)
    assert numbers.shape == (COUNT, 4) and numbers.dtype == np.float64
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.apply_along_axis(lambda column: np.bincount((column * 100).astype(int), minlength=100), 0, numbers)
    chi_squared = ((counts - COUNT / 100) ** 2 / (COUNT / 100)).sum(axis=0)  # 99 degrees of freedom: 99 ± 14
    assert (chi_squared > 40).all() and (chi_squared < 180).all()


def test_what_differs_in_one_thing_is_unrelated():
    """Another seed, epoch, neighbouring sample, domain, or place in the row: correlations are 0 ± 0.003."""
    base = uniforms(sample_keys(5, 3, IDS), 2, domain=7)
    others = [
        base[:, 1],
        np.roll(base[:, 0], 1),
        uniforms(sample_keys(6, 3, IDS), 1, domain=7)[:, 0],
        uniforms(sample_keys(5, 4, IDS), 1, domain=7)[:, 0],
        uniforms(sample_keys(5, 3, IDS), 1, domain=8)[:, 0],
        uniforms(sample_keys(5, 3, IDS + COUNT), 1, domain=7)[:, 0],
    ]
    for other in others:
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 0.015
        assert abs(np.corrcoef(base[:, 0] > 0.5, other > 0.5)[0, 1]) < 0.015


def test_no_two_samples_share_a_key():
    keys = [sample_keys(seed, epoch, IDS) for seed in range(3) for epoch in range(3)]
    assert len(np.unique(np.concatenate(keys))) == 9 * COUNT


def test_keys_of_a_batch_that_crosses_epochs_are_those_of_each():
    epochs, ids = np.array([0, 0, 1]), np.array([7, 8, 7])
    expected = [sample_keys(3, int(epoch), ids[n : n + 1])[0] for n, epoch in enumerate(epochs)]
    assert sample_keys(3, epochs, ids).tolist() == expected and expected[0] != expected[2]


def test_a_row_depends_on_its_key_alone():
    keys = sample_keys(0, 0, np.arange(50))
    together = uniforms(keys, 3, domain=1)
    assert (together == np.concatenate([uniforms(keys[n : n + 1], 3, domain=1) for n in range(50)])).all()
    assert (together[:, :2] == uniforms(keys, 2, domain=1)).all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 63))
def test_every_bit_of_a_part_matters(part, bit):
    changed = mix(1, part) ^ mix(1, part ^ (1 << bit))
    assert 10 <= changed.bit_count() <= 54  # 32 ± 4


def test_golden_values():
    """A change of these numbers breaks every saved run."""
    assert mix(1, 2, 3) == 15020427595393229491
    assert mix_array(9, np.arange(2, dtype=np.uint64)).tolist() == [12587370737594032228, 11409396526365357622]
    keys = sample_keys(3, np.array([0, 1]), np.array([5, 5]))
    assert keys.tolist() == [12493661802483807038, 17909467380128192899]
    assert uniforms(keys, 2, domain=7).tolist() == [
        [0.3896206588021879, 0.6042281440746254],
        [0.8861905560456446, 0.8582488703528456],
    ]
