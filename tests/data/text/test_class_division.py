"""Splits by class: each class in each split where there is enough of it, and copies of a text in one."""

import itertools

import pytest

from bigtrain.data.text.class_division import LabelledText, absent_classes, divide_by_class, fractions_of
from bigtrain.errors import DataError


def texts_of(*labels):
    return [LabelledText(f"text {number}", label, "") for number, label in enumerate(labels)]


def divided(texts, split="0.8,0.1,0.1"):
    return divide_by_class(texts, fractions_of(split), f"data.split={split}")


@pytest.mark.parametrize("counts", list(itertools.product([3, 4, 7, 20], [3, 5, 50])))
@pytest.mark.parametrize("split", ["0.8,0.1,0.1", "0.98,0.01,0.01", "0.9,0.1,0"])
def test_each_split_has_each_class_where_there_is_enough_of_it(counts, split):
    texts = texts_of(*[label for label, count in enumerate(counts) for _ in range(count)])
    parts = divided(texts, split)
    assert list(parts) == ["train", "val", "test"][: len(fractions_of(split))]
    assert all({one.label for one in part} == {0, 1} for part in parts.values())
    assert sorted(one.text for part in parts.values() for one in part) == sorted(one.text for one in texts)
    again = divided(texts[::-1], split)
    assert all({one.text for one in parts[name]} == {one.text for one in again[name]} for name in parts)


def test_train_has_the_only_text_of_a_class_and_the_others_say_so():
    parts = divided(texts_of(*[0] * 20, 1))
    assert {one.label for one in parts["train"]} == {0, 1}
    assert absent_classes(parts, ("no", "yes")) == [
        "val has no text of the class yes",
        "test has no text of the class yes",
    ]


def test_copies_of_a_text_join_one_split_whatever_their_labels():
    texts = [LabelledText(f"text {number // 2}", number % 2, "") for number in range(200)]
    texts += [LabelledText(f"text {number}", 2, "") for number in range(0, 100, 3)]
    parts = divided(texts, "0.5,0.25,0.25")
    of_text = [{one.text for one in part} for part in parts.values()]
    assert all(not one & other for one, other in itertools.combinations(of_text, 2))
    assert sum(map(len, parts.values())) == len(texts)


def test_texts_that_had_no_such_fault_are_divided_as_ever():
    parts = divided(texts_of(*[number % 3 for number in range(30)]))
    assert [one.text for one in parts["val"]] == ["text 24", "text 25", "text 29"]
    assert [one.text for one in parts["test"]] == ["text 27", "text 1", "text 23"]


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(DataError, match=r"val split would be empty\n.*data.split=0.8,0.1,0.1 of 2 text"):
        divided(texts_of(0, 1))
