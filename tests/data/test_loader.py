"""Batches hold each sample once, with its key and its partner, whatever the ranks and the micro-batches."""

import numpy as np
import pytest
import torch

from bigtrain.data.base import Dataset
from bigtrain.data.loader import Prefetch, TrainLoader, evaluation_batches, keyed_samples
from bigtrain.data.order import BucketedOrder, ShuffledOrder
from bigtrain.distributed.world import World
from bigtrain.randomness import sample_keys

SIZE = 101


class Numbers(Dataset):
    """Sample n is the number n; `lengths` as given."""

    def __init__(self, lengths=None):
        if lengths is not None:
            self.lengths = lengths

    def __len__(self):
        return SIZE

    def gather(self, ids):
        assert ids.dtype == np.int64
        return {"numbers": torch.from_numpy(ids.copy())}


LENGTHS = np.random.default_rng(0).integers(2, 40, SIZE)
ORDERS = {
    "shuffled": (Numbers(), ShuffledOrder(SIZE, 12, seed=3)),
    "bucketed": (Numbers(LENGTHS), BucketedOrder(LENGTHS, 3, batch_size=12)),
}


def world(rank, size):
    return World(rank, size, torch.device("cpu"))


def joined(batches):
    return {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}


def step_over_ranks(dataset, order, size, micro_batch_size, step, partners=True):
    batches = []
    for rank in range(size):
        loader = TrainLoader(dataset, dict, order, micro_batch_size, world(rank, size), seed=5, partners=partners)
        batches += loader.micro_batches(step)
    assert all(len(batch["numbers"]) <= (micro_batch_size or SIZE) for batch in batches)
    return joined(batches)


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize(("size", "micro_batch_size"), [(1, 5), (2, None), (3, 2), (5, 1)])
def test_a_step_is_the_same_however_it_is_shared(kind, size, micro_batch_size):
    for step in (0, 8, 1000):
        alone = step_over_ranks(*ORDERS[kind], 1, None, step)
        assert set(alone) == {"numbers", "partner_numbers", "keys"}
        assert step_over_ranks(*ORDERS[kind], size, micro_batch_size, step) == alone
        assert alone["numbers"] == ORDERS[kind][1].ids(step).tolist()


def test_a_sample_has_another_key_and_partner_in_each_epoch():
    dataset, order = ORDERS["shuffled"]
    seen = {}
    for step in range(5 * SIZE // 12 + 1):  # five epochs
        found = step_over_ranks(dataset, order, 1, None, step)
        for number, key, partner in zip(found["numbers"], found["keys"], found["partner_numbers"], strict=True):
            seen.setdefault(number, []).append((key, partner))
    assert all(len({key for key, _ in pairs}) == len(pairs) >= 5 for pairs in seen.values())
    partners = [partner for pairs in seen.values() for _, partner in pairs]
    assert len(set(partners)) > 0.95 * SIZE and set(partners) <= set(range(SIZE))
    assert sum(len({partner for _, partner in pairs}) > 1 for pairs in seen.values()) > 0.95 * SIZE


def test_without_partners_nothing_else_is_read():
    assert set(step_over_ranks(*ORDERS["shuffled"], 1, None, 0, partners=False)) == {"numbers", "keys"}


@pytest.mark.parametrize("dataset", [Numbers(), Numbers(LENGTHS)], ids=["in order", "by length"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_evaluation_reads_each_sample_once_in_as_many_batches_on_each_rank(dataset, size):
    rounds = [list(evaluation_batches(dataset, dict, 16, world(rank, size), partners=True)) for rank in range(size)]
    assert len({len(batches) for batches in rounds}) == 1
    counted = joined([batch for batches in rounds for batch, counts in batches if counts])
    assert sorted(counted["numbers"]) == list(range(SIZE))
    alone = joined([batch for batch, _ in evaluation_batches(dataset, dict, 5, world(0, 1), partners=True)])
    by_number = dict(zip(alone["numbers"], zip(alone["keys"], alone["partner_numbers"], strict=True), strict=True))
    for number, *rest in zip(counted["numbers"], counted["keys"], counted["partner_numbers"], strict=True):
        assert tuple(rest) == by_number[number]


def test_an_evaluation_of_texts_is_hardly_padded():
    batches = [batch["numbers"].numpy() for batch, _ in evaluation_batches(Numbers(LENGTHS), dict, 16, world(0, 1))]
    assert LENGTHS.sum() / sum(len(ids) * LENGTHS[ids].max() for ids in batches) > 0.85


def test_partners_are_drawn_from_the_whole_split_alike():
    keys = sample_keys(0, 0, np.arange(50_000))
    partners = keyed_samples(Numbers(), np.zeros(50_000, dtype=np.int64), keys, True)["partner_numbers"].numpy()
    counts = np.bincount(partners, minlength=SIZE)
    assert len(counts) == SIZE and abs(counts - 50_000 / SIZE).max() < 5 * (50_000 / SIZE) ** 0.5


@pytest.mark.parametrize("steps", [[0, 1, 2, 3], [5, 5, 6], [9, 2, 3], [0]])
def test_batches_made_ahead_are_those_asked_for(steps):
    """Also after a jump, as on resume; `meta` stands for a device that is not the CPU."""
    loader = TrainLoader(*ORDERS["shuffled"][:1], dict, ORDERS["shuffled"][1], 5, world(0, 1), seed=5, partners=True)
    ahead = Prefetch(loader, torch.device("meta"))
    for step in steps:
        assert joined(ahead.micro_batches(step)) == joined(loader.micro_batches(step))
    ahead.close()


def test_what_fails_while_a_batch_is_made_ahead_is_raised_when_it_is_asked_for():
    def collate(samples):
        if 50 in samples["numbers"]:
            raise ValueError("sample 50")
        return samples

    loader = TrainLoader(*ORDERS["shuffled"][:1], collate, ORDERS["shuffled"][1], None, world(0, 1), seed=5)
    bad = next(step for step in range(9) if 50 in loader.ids(step))
    ahead = Prefetch(loader, torch.device("meta"))
    for step in range(bad):
        ahead.micro_batches(step)
    with pytest.raises(ValueError, match="sample 50"):
        ahead.micro_batches(bad)
    ahead.close()
