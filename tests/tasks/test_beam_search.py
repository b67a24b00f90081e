"""Beam search against looking at every target there is, against greedy decoding by hand, and without a cache."""

import itertools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from tiny_networks import PAIRS, perturb, samples, tiny_config, tiny_network

from bigtrain.models.config import Seq2SeqConfig
from bigtrain.tasks.beam_search import Search, beam_search
from bigtrain.tasks.config import Seq2SeqTaskConfig

BEGIN, END = 4, 3


class Written(NamedTuple):
    """A state that is nothing but the rows' tokens so far, each row beginning with its source's number."""

    tokens: torch.Tensor

    def select(self, rows):
        return Written(self.tokens[rows])


def step(ids_N1, state):
    """Scores over five tokens that depend on the source and on everything so far; the beginning is never written."""
    tokens = torch.cat((state.tokens, ids_N1), dim=1)
    scores = torch.stack([_scores(tuple(row)) for row in tokens.tolist()])
    return scores, Written(tokens)


def _scores(tokens):
    seed = sum((token + 1) * 7**place for place, token in enumerate(tokens))
    scores = 2 * torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.index_fill(0, torch.tensor([BEGIN]), -torch.inf)


def search_all(limits, search):
    rows = torch.arange(len(limits)).repeat_interleave(search.num_beams)[:, None]
    return beam_search(step, Written(rows), torch.tensor(limits), BEGIN, END, search)


def every_target(source, limit):
    """(log P, ids) of every target that ends within the limit."""
    for length in range(limit):
        for ids in itertools.product(range(3), repeat=length):
            prefix, log_probability = [source, BEGIN], 0.0
            for token in (*ids, END):
                log_probability += float(_scores(tuple(prefix)).log_softmax(0)[token])
                prefix.append(token)
            yield log_probability, list(ids)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_with_beams_for_everything_it_finds_the_best_of_all(penalty):
    """At the fourth token there are 108 candidates at most, so 108 beams lose none."""
    search = Search(num_beams=108, length_penalty=penalty)
    for source, found in enumerate(search_all([4] * 6, search)):
        ranked = sorted(every_target(source, 4), key=lambda one: -one[0] / ((5 + len(one[1]) + 1) / 6) ** penalty)
        ended = [hypothesis for hypothesis in found if hypothesis.ended]
        assert [hypothesis.ids for hypothesis in ended] == [ids for _, ids in ranked]
        expected = ranked[0][0] / ((5 + len(ranked[0][1]) + 1) / 6) ** penalty
        assert ended[0].score == pytest.approx(expected, abs=1e-5)


def test_one_beam_takes_the_argmax_each_time():
    for source, (best,) in enumerate(search_all([9] * 20, Search(num_beams=1))):
        prefix = [source, BEGIN]
        while prefix[-1] != END and len(prefix) < 11:
            prefix.append(int(_scores(tuple(prefix)).argmax()))
        assert best.ended is (prefix[-1] == END)
        assert best.ids == [token for token in prefix[2:] if token != END]


def test_what_is_sure_is_found_however_many_unlikely_targets_end_before_it():
    """Each token of 0 1 2 0 1 2 has 99 % of the probability, and the end nearly all that is left."""
    wanted = [0, 1, 2, 0, 1, 2]

    def sure(ids_N1, state):
        place = state.tokens.shape[1] - 1
        tokens = torch.cat((state.tokens, ids_N1), dim=1)
        probabilities = torch.full((len(tokens), 5), 1e-4)
        probabilities[:, END] = 0.01
        on_the_way = (tokens[:, 2:] == torch.tensor(wanted[:place])).all(dim=1)
        probabilities[on_the_way, (wanted + [END])[min(place, 6)]] = 0.99
        return probabilities.log(), Written(tokens)

    found = beam_search(sure, Written(torch.zeros(5, 1, dtype=torch.int64)), torch.tensor([20]), BEGIN, END, Search(5))
    assert found[0][0].ids == wanted and found[0][0].ended


def test_a_higher_penalty_prefers_longer_targets():
    lengths = [
        sum(len(found[0].ids) for found in search_all([4] * 10, Search(num_beams=108, length_penalty=penalty)))
        for penalty in (0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_each_source_has_a_limit_of_its_own():
    limits = [1, 5, 2, 8]
    for num_beams in (1, 3):
        found = search_all(limits, Search(num_beams=num_beams))
        for limit, hypotheses in zip(limits, found, strict=True):
            assert 1 <= len(hypotheses) <= num_beams
            assert all(len(one.ids) + one.ended <= limit for one in hypotheses)
            ended = [one.ended for one in hypotheses]
            assert ended == sorted(ended, reverse=True)  # those that were cut off come last
    alone = [beam_search(step, Written(torch.tensor([[n]] * 3)), torch.tensor([limit]), BEGIN, END, Search(3))[0]
             for n, limit in enumerate(limits)]  # fmt: skip
    assert [[one.ids for one in hypotheses] for hypotheses in alone] == [[one.ids for one in rest] for rest in found]


def test_limits_follow_the_source_and_the_settings():
    search = Search(max_length_factor=1.5)
    assert search.limits(torch.tensor([2, 5]), 100).tolist() == [13, 18]
    assert search.limits(torch.tensor([2, 5]), 15).tolist() == [13, 15]
    assert replace(search, max_tokens=4).limits(torch.tensor([2, 5]), 15).tolist() == [4, 4]


class Recomputed(NamedTuple):
    """Everything anew for each token: what a cache must not change."""

    source: torch.Tensor
    source_lengths: torch.Tensor
    tokens: torch.Tensor

    def select(self, rows):
        return Recomputed(*(value[rows] for value in self))


@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_with_a_cache_it_finds_what_it_finds_without(num_beams):
    config = tiny_config(Seq2SeqConfig, tie_embeddings=False)
    task_config = Seq2SeqTaskConfig(num_beams=num_beams, length_penalty=2)
    task, network = tiny_network(config, task_config=task_config, spec=PAIRS)
    perturb(network.double(), 0.5).train()
    with torch.no_grad():
        network.heads["seq2seq"].weight[task.end_id] *= 0.5  # so that targets do not end at once
    batch = task.collate(samples(PAIRS, 7), training=False)
    cached = task.write(network, batch)
    assert network.training  # its mode is back

    def recompute(ids_N1, state):
        tokens = torch.cat((state.tokens, ids_N1), dim=1)
        output = network(tokens, source=state.source, source_lengths=state.source_lengths)
        return output.predictions["seq2seq"].last_logits(), state._replace(tokens=tokens)

    rows = torch.arange(7).repeat_interleave(num_beams)
    source, lengths = batch["source"][rows], batch["source_lengths"][rows]
    state = Recomputed(source, lengths, torch.empty(len(rows), 0, dtype=torch.int64))
    limits = task.search.limits(batch["source_lengths"], config.max_length)
    with torch.inference_mode():
        network.eval()
        found = beam_search(recompute, state, limits, task.begin_id, task.end_id, task.search)
    assert [[one.ids for one in rest] for rest in cached] == [[one.ids for one in rest] for rest in found]
    scores = [[one.score for one in rest] for rest in found]
    assert [[one.score for one in rest] for rest in cached] == [pytest.approx(rest, rel=1e-9) for rest in scores]
    written = {tuple(rest[0].ids) for rest in found}
    assert len(written) > 3 and max(map(len, written)) > 3
