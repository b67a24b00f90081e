"""n-grams against counting by hand, as probabilities, and left out one by one."""

from collections import Counter

import numpy as np
import pytest
import torch

from bigtrain.nn.kneser_ney import KneserNey, contexts_of, joined

VOCAB_SIZE = 7
TEXT = np.random.default_rng(0).zipf(1.6, 300) % 6  # token 6 never occurs
ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 5])


def reference(order, discounts):
    """P(w | h), written out with dictionaries: of the highest order occurrences, below the kinds of what precedes."""
    padded = [-1] * (order - 1) + TEXT.tolist()
    counts = {order: Counter(tuple(padded[end - order : end]) for end in range(order + 1, len(padded) + 1))}
    for lower in reversed(range(1, order)):
        counts[lower] = Counter(gram[1:] for gram in counts[lower + 1])

    def probability(context, token, at=order):
        if at == 0:
            return 1 / VOCAB_SIZE
        context = tuple(context)[len(context) - at + 1 :]
        below = probability(context[1:], token, at - 1)
        followers = {gram[-1]: count for gram, count in counts[at].items() if gram[:-1] == context}
        if not followers:
            return below
        discount = {word: discounts[at - 1][min(count, 3) - 1] for word, count in followers.items()}
        own = max(followers.get(token, 0) - discount.get(token, 0), 0)
        return (own + sum(discount.values()) * below) / sum(followers.values())

    return probability


@ORDERS
def test_a_text_by_hand_and_probabilities_add_up_to_one(order):
    model = KneserNey(order, VOCAB_SIZE, torch.tensor(TEXT)[None])
    assert model.tokens == len(TEXT) - 1
    probability = reference(order, model.discounts.tolist())
    rng = np.random.default_rng(1)
    contexts = torch.tensor(np.concatenate([TEXT[start : start + order - 1] for start in range(20)]).reshape(20, -1))
    contexts = torch.cat((contexts, torch.tensor(rng.integers(-1, VOCAB_SIZE, (20, order - 1)))))
    token = torch.tensor(rng.integers(0, VOCAB_SIZE, 40))
    found = model.probabilities(contexts, token)
    expected = [probability(context, one) for context, one in zip(contexts.tolist(), token.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    distribution = model.distribution(contexts)
    np.testing.assert_allclose(distribution.sum(dim=1), 1, rtol=1e-13)
    np.testing.assert_allclose(distribution[torch.arange(40), token], found, rtol=1e-13)


@ORDERS
def test_leaving_one_out_is_not_counting_it(order):
    text = torch.tensor(TEXT)[None]
    model, contexts, targets = KneserNey(order, VOCAB_SIZE, text), contexts_of(text, order - 1)[0], text[0, 1:]
    found = model.probabilities(contexts, targets, leave_one_out=True)
    for place in range(0, len(targets), 7):
        others = torch.ones(1, len(targets), dtype=torch.bool)
        others[0, place] = False
        without = KneserNey(order, VOCAB_SIZE, text, others)
        expected = without.probabilities(contexts[[place]], targets[[place]], model.discounts)
        torch.testing.assert_close(found[[place]], expected, rtol=1e-12, atol=0)


def test_discounts_are_chen_and_goodmans_estimates():
    # Occurrences: 0 once, 1 once, 2 twice, 3 three times, 4 four times.
    tokens = torch.tensor([[5, 0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4]])
    share = 2 / (2 + 2 * 1)
    expected = torch.tensor([share, 2 - 3 * share, 3 - 4 * share], dtype=torch.float64)
    torch.testing.assert_close(KneserNey(1, 6, tokens).discounts[0], expected)
    few = KneserNey(2, 6, torch.tensor([[0, 0, 0, 0]]))
    assert few.discounts.tolist() == [[0.5, 1.0, 1.5]] * 2
    assert 0 < few.probabilities(torch.tensor([[0]]), torch.tensor([5])) < 0.1


def test_windows_that_follow_each_other_are_one_text():
    tokens = torch.tensor([[0, 1, 2], [2, 3, 4]])
    scored = torch.tensor([[True, True], [True, False]])
    one, of_one = joined(tokens, scored, follow=True)
    assert one.tolist() == [[0, 1, 2, 3, 4]] and of_one.tolist() == [[True, True, True, False]]
    assert contexts_of(one, 2).tolist() == [[[-1, 0], [0, 1], [1, 2], [2, 3]]]
    several, of_several = joined(tokens, scored, follow=False)
    assert contexts_of(several, 2)[1].tolist() == [[-1, 2], [2, 3]]
    assert KneserNey(3, 5, several, of_several).tokens == 3


@pytest.mark.parametrize("dense", [0, 1 << 40])
def test_counting_by_sorting_and_in_a_table_of_all_values_is_the_same(dense, monkeypatch):
    text, scored = torch.tensor(TEXT)[None], torch.tensor(TEXT[1:] != 3)[None]
    expected = KneserNey(4, VOCAB_SIZE, text, scored)
    monkeypatch.setattr("bigtrain.nn.kneser_ney._DENSE", dense)
    found = KneserNey(4, VOCAB_SIZE, text, scored)
    for one, other in zip(found._levels, expected._levels, strict=True):
        for name, value in vars(one).items():
            assert torch.equal(value, getattr(other, name)), name
