"""The copy's channel entropy is right, and only the copy is scored."""

import math

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.synthetic.config import CopyConfig
from bigtrain.data.synthetic.copy import NoisyCopy, channel_entropy
from bigtrain.data.tokenizers.tokenizer import CharTokenizer
from bigtrain.errors import DataError


def small(**settings):
    return CopyConfig(**{"train_samples": 500, "eval_samples": 4_000, "sequence_length": 20, **settings})


def test_a_channel_of_two_symbols_by_hand():
    """Half of the replacements change nothing: the symbol is kept with probability 0.8, turned with 0.2."""
    assert channel_entropy(2, 0.4) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))


@pytest.mark.parametrize("symbols", [2, 5, 26])
def test_a_clean_channel_costs_nothing_and_a_broken_one_everything(symbols):
    assert channel_entropy(symbols, 0.0) == 0
    assert channel_entropy(symbols, 1.0) == pytest.approx(math.log(symbols))


@pytest.mark.parametrize(("vocab_size", "noise"), [(17, 0.1), (3, 0.3), (27, 1.0), (9, 0.0)])
def test_who_knows_the_channel_reaches_the_optimum_on_scored_targets(vocab_size, noise):
    data = NoisyCopy(small(vocab_size=vocab_size, noise=noise))
    samples = data.dataset("val").gather(np.arange(4_000))
    tokens, scored = samples["tokens"].numpy(), samples["scored"].numpy()
    assert (scored == (np.arange(20) >= 10)).all()
    kept = tokens[:, 1:][:, 10:] == tokens[:, :10]  # the scored targets against the string
    other = noise / (vocab_size - 1)
    losses = np.where(kept, -math.log(1 - noise + other), -math.log(other) if other else math.inf)
    assert abs(losses.mean() - data.spec.optimal_loss) <= 4 * losses.std() / math.sqrt(losses.size) + 1e-12


def test_a_window_reads_string_separator_copy():
    data = NoisyCopy(small(noise=0.0))
    text = data.tokenizer.decode(data.dataset("train").gather(np.array([7]))["tokens"][0].numpy())
    string, copy = text.split("|")
    assert string == copy and len(string) == 10 and set(string) <= set("abcdefghijklmnop")
    assert data.spec.vocab_size == data.tokenizer.vocab_size == 17 and data.spec.sequence_length == 20


def test_strings_and_replacements_are_uniform():
    tokens = NoisyCopy(small(vocab_size=5, noise=1.0, eval_samples=20_000)).dataset("val").tokens
    for symbols in (tokens[:, :10], tokens[:, 11:]):
        counts = np.bincount(symbols.reshape(-1), minlength=5)
        assert counts[4] == 0 and counts[:4] == pytest.approx([50_000] * 4, rel=0.02)
    assert (tokens[:, 10] == 4).all()


def test_seeds_and_splits():
    first = NoisyCopy(small())
    assert first.spec == NoisyCopy(small(), first.tokenizer).spec
    assert first.spec.fingerprint != NoisyCopy(small(draw_seed=1)).spec.fingerprint
    assert (first.dataset("val").tokens[:100] != first.dataset("test").tokens[:100]).any()


def test_what_can_not_be_made_is_refused():
    assert find_problems(CopyConfig(sequence_length=33))
    assert find_problems(CopyConfig(noise=1.1))
    with pytest.raises(DataError, match="data.vocab_size=3"):
        NoisyCopy(small(), CharTokenizer("ab|"))
