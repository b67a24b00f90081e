"""Labels are words or numbers, and 1.0 is the number 1."""

import pytest

from bigtrain.data.text.labels import are_none, looks_like_header, names_of, numbers_of


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10.0", "9.0", "0.0"], ("0.0", "9.0", "10.0")),
        (["1", "0.0", "1.0", "0"], ("0", "1")),
        (["0.5", "-1", "10", "9.25"], ("-1", "0.5", "9.25", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["1.2.3", "1.0"], ("1.0", "1.2.3")),
    ],
)
def test_numbers_have_their_order_and_words_theirs(labels, names):
    assert names_of(labels) == names


def test_a_class_is_found_by_name_by_number_and_by_the_number_as_it_may_be_written():
    assert numbers_of(("bad", "good")) == {"bad": 0, "good": 1, "0": 0, "1": 1}
    assert numbers_of(("1.0", "0.0")) == {"1": 0, "0": 1}


def test_labels_that_are_kept_secret_are_none():
    assert are_none(["-1", "-1.0", ""], {"0": 0, "1": 1})
    assert not are_none(["-1", "-1"], {"-1": 0, "1": 1}) and not are_none(["-1", "0"], {"0": 0})


def test_a_header_is_told_by_its_label():
    assert looks_like_header(["label", "0", "1.0"], {"0": 0, "1": 1}) and not looks_like_header(
        ["0", "1"], {"0": 0, "1": 1}
    )
    assert looks_like_header(["label", "a", "b", "a", "b"], ()) and not looks_like_header(["a", "b", "a", "b"], ())
    assert not looks_like_header(["label"], {"0": 0})
