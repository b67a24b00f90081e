"""The chain's entropy rate is right, and its samples follow it."""

import math

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.data.synthetic.markov import (
    Markov,
    entropy_rate,
    sample_windows,
    stationary_distribution,
    transition_probabilities,
)
from bigtrain.data.tokenizers.tokenizer import CharTokenizer
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError


def small(**settings):
    return MarkovConfig(**{"train_tokens": 20_000, "eval_tokens": 60_000, "sequence_length": 16, **settings})


def test_a_chain_of_two_symbols_by_hand():
    """P(b|a) = 1/4, P(a|b) = 1/2: a holds 2/3 of the time, so the rate is 2/3 H(1/4) + 1/3 H(1/2)."""
    chain = np.array([[0.75, 0.25], [0.5, 0.5]])
    stationary = stationary_distribution(chain, vocab_size=2)
    np.testing.assert_allclose(stationary, [2 / 3, 1 / 3], atol=1e-12)
    by_hand = 2 / 3 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) + 1 / 3 * math.log(2)
    assert entropy_rate(chain, stationary) == pytest.approx(by_hand, abs=1e-12)


def test_a_chain_of_order_two_by_hand():
    """The next symbol repeats the one before the last with probability 0.9: every context is as likely."""
    chain = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])  # contexts aa, ab, ba, bb
    stationary = stationary_distribution(chain, vocab_size=2)
    np.testing.assert_allclose(stationary, [0.25] * 4, atol=1e-12)
    assert entropy_rate(chain, stationary) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


def test_a_cycle_and_a_chain_that_falls_apart_have_rate_zero():
    for chain in (np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2)):
        stationary = stationary_distribution(chain, vocab_size=2)
        np.testing.assert_allclose(stationary @ chain, stationary, atol=1e-12)
        assert entropy_rate(chain, stationary) == 0


def test_a_chain_that_does_not_settle_is_an_error(monkeypatch):
    monkeypatch.setattr("bigtrain.data.synthetic.markov._MOST_ITERATIONS", 1000)
    chain = np.array([[1 - 1e-9, 1e-9], [2e-9, 1 - 2e-9]])
    with pytest.raises(DataError, match="data.concentration"):
        stationary_distribution(chain, vocab_size=2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": 1},
        {"vocab_size": 2, "order": 5},
        {"concentration": 0.05},
        {"vocab_size": 40, "order": 1},
    ],
)
def test_the_true_chain_reaches_the_optimal_loss_on_scored_targets(settings):
    config = small(**settings)
    data = Markov(config)
    chain = transition_probabilities(config)
    samples = data.dataset("val").gather(np.arange(data.spec.sizes["val"]))
    tokens, scored = samples["tokens"].numpy(), samples["scored"].numpy()
    losses = np.full(scored.shape, np.nan)
    for t in range(config.order - 1, config.sequence_length):
        context = np.zeros(len(tokens), dtype=int)
        for symbol in tokens[:, t + 1 - config.order : t + 1].T:
            context = context * config.vocab_size + symbol
        losses[:, t] = -np.log(chain[context, tokens[:, t + 1]])
    assert (np.isfinite(losses) == scored).all()
    per_window = np.nanmean(losses, axis=1)
    error = per_window.std() / math.sqrt(len(per_window))
    assert abs(per_window.mean() - data.spec.optimal_loss) < 4 * error
    first, last = losses[:, config.order - 1].mean(), losses[:, -1].mean()
    assert abs(first - last) < 6 * losses[:, -1].std() / math.sqrt(len(tokens))  # stationary from the first target


def test_samples_follow_the_probabilities():
    chain = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.6, 0.0, 0.4]])
    stationary = np.array([1.0, 0.0, 0.0])
    windows = sample_windows(chain, stationary, 1, (200_000, 2), np.random.default_rng(0))
    assert (windows[:, 0] == 0).all()
    np.testing.assert_allclose(np.bincount(windows[:, 1]) / len(windows), chain[0], atol=0.005)


def test_the_same_seed_gives_the_same_data_and_splits_differ():
    first, second = Markov(small()), Markov(small())
    assert first.spec == second.spec
    assert Markov(small(chain_seed=1)).spec.fingerprint != first.spec.fingerprint
    ids = np.arange(100)
    val, test = (first.dataset(split).gather(ids)["tokens"] for split in ("val", "test"))
    assert (val == second.dataset("val").gather(ids)["tokens"]).all() and (val != test).any()


def test_spec_and_tokenizer():
    data = Markov(small())
    assert data.spec.sizes == {"train": 1250, "val": 3750, "test": 3750}
    tokens = data.dataset("train").gather(np.array([0]))["tokens"][0].numpy()
    text = data.tokenizer.decode(tokens)
    assert len(text) == 17 and set(text) <= set("abcdefghijklmnop")
    again = Markov(small(), tokenizer_from_json(data.tokenizer.to_json()))
    assert again.spec == data.spec
    with pytest.raises(DataError, match="data.vocab_size=3"):
        Markov(small(), CharTokenizer("abc"))
    wide = Markov(small(vocab_size=100, order=1))
    assert wide.spec.bytes_per_token["val"] == 3.0 and wide.tokenizer.vocab_size == 100


@pytest.mark.parametrize(
    "settings",
    [
        {"vocab_size": 4096, "order": 2},
        {"sequence_length": 2, "order": 3},
        {"train_tokens": 64},
        {"concentration": 0},
    ],
)
def test_what_can_not_be_made_is_a_config_problem(settings):
    assert find_problems(MarkovConfig(**settings))
