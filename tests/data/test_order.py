"""The data order is a bijection per epoch and a pure function of (seed, step)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.base import Source
from bigtrain.data.order import BucketedOrder, ContiguousOrder, MixedOrder, ShuffledOrder, block_counts
from bigtrain.data.permutation import permute


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_each_epoch_is_a_bijection(size, seed, epoch):
    ids = permute(seed, epoch, np.arange(size), size)
    assert sorted(ids.tolist()) == list(range(size))


@given(size=st.integers(1, 500), batch=st.integers(1, 64), seed=st.integers(0, 10**9), step=st.integers(0, 10**5))
@settings(max_examples=200, deadline=None)
def test_step_ids_follow_from_positions_alone(size, batch, seed, step):
    expected = [
        permute(seed, position // size, np.array([position % size]), size)[0]
        for position in range(step * batch, (step + 1) * batch)
    ]
    assert ShuffledOrder(size, batch, seed).ids(step).tolist() == expected


def test_golden_values():
    """A change of these numbers breaks every saved run: it needs a new format version, not a new constant here."""
    assert ShuffledOrder(1000, 4, seed=0).ids(0).tolist() == GOLDEN_FIRST
    assert ShuffledOrder(1000, 4, seed=7).ids(12345).tolist() == GOLDEN_LATER


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(permute(seed, epoch, np.arange(100), 100)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_permutation_has_no_visible_structure():
    ids = permute(3, 0, np.arange(4096), 4096).astype(float)
    neighbours = np.corrcoef(ids[:-1], ids[1:])[0, 1]
    trend = np.corrcoef(ids, np.arange(4096))[0, 1]
    assert abs(neighbours) < 0.06
    assert abs(trend) < 0.06


@given(size=st.integers(1, 400), batch=st.integers(1, 40), seed=st.integers(0, 10**9), epoch=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_contiguous_rows_read_window_after_window_and_an_epoch_leaves_out_fewer_than_a_batch(size, batch, seed, epoch):
    order = ContiguousOrder(size, batch, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    ids = np.stack([order.ids(step) for step in steps])
    begins = np.stack([order.begins(step) for step in steps])
    assert (ids[1:] == (ids[:-1] + 1) % size).all()
    assert begins[0].all()
    assert (begins[1:] == (ids[1:] == 0)).all()
    assert all((order.epochs(step) == epoch).all() for step in steps)
    if size >= batch:
        assert len(np.unique(ids)) == ids.size > size - batch
    else:
        assert set(ids[0]) == set(range(size))


def test_contiguous_epochs_leave_out_different_windows_and_seeds_differ():
    def left_out(seed, epoch):
        order = ContiguousOrder(107, 10, seed)
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        return frozenset(range(107)) - set(np.concatenate([order.ids(step) for step in steps]).tolist())

    assert len({left_out(0, epoch) for epoch in range(20)}) > 15
    assert left_out(0, 0) != left_out(1, 0)
    assert frozenset.union(*(left_out(0, epoch) for epoch in range(100))) == frozenset(range(107))


def test_golden_values_of_the_contiguous_order():
    """As above: a change of these numbers breaks every saved run."""
    assert ContiguousOrder(1000, 4, seed=0).ids(0).tolist() == CONTIGUOUS_FIRST
    assert ContiguousOrder(1000, 4, seed=7).ids(12345).tolist() == CONTIGUOUS_LATER


lengths_lists = st.lists(st.integers(1, 60), min_size=1, max_size=400).map(np.array)


@given(lengths=lengths_lists, batch=st.integers(1, 40), tokens=st.none() | st.integers(60, 500), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_bucketed_epochs_visit_every_sample_once_in_batches_within_their_bounds(lengths, batch, tokens, seed):
    order = BucketedOrder(lengths, seed, batch_size=batch, batch_tokens=tokens)
    steps = round(len(lengths) / order.samples_per_step)
    for epoch in (0, 1, 1000):
        batches = [order.ids(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert min(map(len, batches)) == order.smallest_batch >= 1
        for ids in batches:
            assert len(ids) * lengths[ids].max() <= tokens if tokens else len(ids) <= batch
    assert all((order.epochs(step) == step // steps).all() for step in range(3 * steps))
    assert len(order.epochs(0)) == len(order.ids(0))


@pytest.mark.parametrize("bound", [{"batch_size": 32}, {"batch_size": 1, "batch_tokens": 1000}])
@pytest.mark.parametrize("size", [1000, 3201, 20_001])
def test_bucketed_batches_are_hardly_padded_and_none_is_a_mere_remainder(bound, size):
    lengths = np.random.default_rng(0).geometric(1 / 30, size).clip(2, 200).astype(np.uint16)
    order = BucketedOrder(lengths, 3, **bound)
    batches = [order.ids(step) for step in range(round(size / order.samples_per_step))]
    padded = sum(len(ids) * int(lengths[ids].max()) for ids in batches)
    assert lengths.sum() / padded > 0.85  # in an order that ignores lengths: 0.3
    longest_alone = bound["batch_tokens"] // 200 if "batch_tokens" in bound else 32
    assert order.smallest_batch >= longest_alone - 2


def test_bucketed_batches_are_the_same_in_each_epoch_but_not_their_order():
    lengths = np.random.default_rng(0).integers(5, 50, 3000)
    order = BucketedOrder(lengths, 3, batch_size=10)
    first, second = ([tuple(order.ids(step)) for step in range(epoch * 300, (epoch + 1) * 300)] for epoch in (0, 1))
    assert set(first) == set(second) and first != second
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    other = BucketedOrder(lengths, 4, batch_size=10)
    assert {tuple(other.ids(step)) for step in range(300)} != set(first)


def test_any_step_of_a_bucketed_order_is_found_at_once():
    """A resumed run asks a fresh order for step t first; it must not depend on what was asked before."""
    lengths = np.random.default_rng(0).integers(5, 50, 1000)
    walked = BucketedOrder(lengths, 3, batch_size=10, batch_tokens=300)
    steps = [walked.ids(step).tolist() for step in range(500)]
    for step in (499, 250, 0, 499):
        assert BucketedOrder(lengths, 3, batch_size=10, batch_tokens=300).ids(step).tolist() == steps[step]


def test_a_sample_that_no_batch_can_hold_is_an_error():
    with pytest.raises(ValueError, match="a sample of 60 tokens is longer than a batch of 50"):
        BucketedOrder(np.array([3, 60]), 0, batch_size=1, batch_tokens=50)
    assert BucketedOrder(np.array([3, 50]), 0, batch_size=1, batch_tokens=50).smallest_batch == 1


def test_golden_values_of_the_permutation_and_the_bucketed_order():
    """As above: a change of these numbers breaks every saved run."""
    assert permute(5, 3, np.arange(6), 10**9).tolist() == PERMUTED
    lengths = np.arange(2000) % 37 + 2
    assert BucketedOrder(lengths, 0, batch_size=4).ids(0).tolist() == BUCKETED_FIRST
    assert BucketedOrder(lengths, 7, batch_size=1, batch_tokens=100).ids(12345).tolist() == BUCKETED_LATER
    order = MixedOrder([Source("a", 1000, 0.7), Source("b", 50, 0.3)], 4, seed=7)
    assert order.ids(0).tolist() == MIXED_FIRST
    assert order.ids(12345).tolist() == MIXED_LATER


weights = st.lists(st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0, 7.0]), min_size=1, max_size=5)


@given(weights, st.integers(1, 700), st.integers(0, 10**9), st.integers(0, 3), st.randoms())
@settings(max_examples=60, deadline=None)
def test_each_block_of_a_mixture_has_its_exact_parts_and_each_source_all_of_its_samples(
    weights, batch, seed, block, random
):
    sources = [Source(str(number), random.randint(1, 900), weight) for number, weight in enumerate(weights)]
    order = MixedOrder(sources, batch, seed)
    ends, size = np.cumsum([source.size for source in sources]), int(order.counts.sum())
    assert np.allclose(order.counts / size, np.array(weights) / sum(weights), rtol=0, atol=1e-12)
    steps = range((block + 2) * size // batch + 1)
    ids, epochs = (np.concatenate([of(step) for step in steps]) for of in (order.ids, order.epochs))
    source = np.searchsorted(ends, ids, side="right")
    for first in range(0, len(ids) - size + 1, size):
        assert np.array_equal(np.bincount(source[first : first + size], minlength=len(sources)), order.counts)
    for number, known in enumerate(sources):
        own, mine = ids[source == number], epochs[source == number]
        for epoch in range((block + 2) * int(order.counts[number]) // known.size):
            assert sorted(own[mine == epoch]) == list(range(ends[number] - known.size, ends[number]))


@given(weights, st.integers(1, 64), st.integers(0, 10**9), st.integers(0, 10**7))
@settings(max_examples=60, deadline=None)
def test_any_step_of_a_mixture_is_found_at_once(weights, batch, seed, step):
    """Positions make it, not steps: batches of half the size are halves of the same sequence; nothing is remembered."""
    sources = [Source(str(number), 100 + number, weight) for number, weight in enumerate(weights)]
    whole, fresh = (MixedOrder(sources, size, seed) for size in (2 * batch, batch))
    for of in ("ids", "epochs"):
        halves = [getattr(fresh, of)(2 * step + number) for number in (1, 0)][::-1]
        assert np.array_equal(np.concatenate(halves), getattr(whole, of)(step))


def test_parts_of_a_block():
    assert block_counts([0.7, 0.3]).tolist() == [721, 309]
    assert block_counts([5]).tolist() == [1024]
    assert block_counts([1, 1, 1]).tolist() == [342, 342, 342]
    odd = block_counts([1e-9, 0.123457, 0.7654321])
    assert odd.sum() == 1 << 16 and odd[0] == 1
    assert odd[1] / odd.sum() == pytest.approx(0.123457 / 0.888889, abs=2**-16)


PERMUTED = [325063660, 748665858, 874563845, 286249760, 380553878, 926694567]
BUCKETED_FIRST = [1080, 81, 1006, 1228]
BUCKETED_LATER = [492, 1824, 1713, 381, 973, 1750, 1084]
CONTIGUOUS_FIRST = [928, 178, 428, 678]
CONTIGUOUS_LATER = [522, 772, 22, 272]
GOLDEN_FIRST = [855, 753, 303, 573]
GOLDEN_LATER = [874, 375, 533, 583]
MIXED_FIRST = [761, 428, 81, 1024]
MIXED_LATER = [1035, 1041, 434, 963]
