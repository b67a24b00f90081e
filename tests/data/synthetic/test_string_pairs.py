"""The answers are right, the strings of evaluation are long and were never trained on."""

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.synthetic.config import StringFunction, StringPairsConfig
from bigtrain.data.synthetic.string_pairs import StringPairs
from bigtrain.data.tokenizers.tokenizer import CharTokenizer
from bigtrain.errors import DataError

EVERY_FUNCTION = pytest.mark.parametrize("function", list(StringFunction))


def small(**settings):
    return StringPairsConfig(**{"train_samples": 3_000, "eval_samples": 400, "longest": 8, **settings})


def texts(data, split):
    dataset = data.dataset(split)
    return [
        tuple(data.tokenizer.decode(side[index][1:-1]) for side in (dataset.source, dataset.target))
        for index in range(len(dataset))
    ]


@EVERY_FUNCTION
def test_every_answer_is_right(function):
    for source, target in texts(StringPairs(small(function=function)), "train"):
        if function is StringFunction.addition:
            first, second = source.removesuffix("=").split("+")
            assert int(first) + int(second) == int(target) and str(int(first)) == first
        elif function is StringFunction.sort:
            assert sorted(source) == list(target)
        else:
            assert list(reversed(source)) == list(target)


@EVERY_FUNCTION
@pytest.mark.parametrize("longest", [5, 8])
def test_evaluation_is_on_long_strings_that_no_other_split_has(function, longest):
    data = StringPairs(small(function=function, longest=longest, eval_samples=200))
    sources = {split: [source for source, _ in texts(data, split)] for split in data.spec.sizes}
    for split in ("val", "test"):
        assert len(set(sources[split])) == 200
        assert not set(sources[split]) & set(sources["train"])
        longer = [max(map(len, source.removesuffix("=").split("+"))) for source in sources[split]]
        assert min(longer) == longest // 2 + 1 and max(longer) == longest
    assert not set(sources["val"]) & set(sources["test"])
    digits = [max(map(len, source.removesuffix("=").split("+"))) for source in sources["train"]]
    assert set(digits) == set(range(1, longest + 1))
    assert np.bincount(digits)[1:].min() > 0.7 * 3_000 / longest


def test_both_numbers_of_a_sum_take_every_length_and_either_may_be_the_longer():
    sums = [
        source.removesuffix("=").split("+")
        for source, _ in texts(StringPairs(small(function=StringFunction.addition)), "test")
    ]
    lengths = np.array([list(map(len, pair)) for pair in sums])
    assert set(lengths.min(axis=1)) == set(range(1, 9))
    assert 0.3 < (lengths[:, 0] > lengths[:, 1]).mean() < 0.6


def test_a_spec_says_that_nothing_need_be_lost():
    data = StringPairs(small())
    assert data.spec.optimal_loss == 0 and data.spec.kind == "pairs"
    assert data.spec.sequence_length == 10 == data.dataset("train").lengths.max()
    assert data.spec == StringPairs(small(), data.tokenizer).spec
    assert data.spec.fingerprint != StringPairs(small(draw_seed=1)).spec.fingerprint
    assert StringPairs(small(letters=3, eval_samples=10)).spec.vocab_size == 4


def test_what_can_not_be_made_is_refused():
    assert find_problems(StringPairsConfig(letters=2, longest=4))
    assert find_problems(StringPairsConfig(function=StringFunction.addition, longest=2))
    assert not find_problems(StringPairsConfig(function=StringFunction.addition, longest=6))
    with pytest.raises(DataError, match="tokenizer"):
        StringPairs(small(), CharTokenizer("ab", end_of_text=True))
