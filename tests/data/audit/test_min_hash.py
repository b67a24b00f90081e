"""Near-duplicates: the estimate, no pair missed, and laws that no order of the rows changes."""

import random
import string

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.audit.duplicates import conflicting_samples, repeated_samples, shared_samples
from bigtrain.data.audit.min_hash import References, signatures, similarity
from bigtrain.data.audit.texts import digest_texts, gist_of, near_duplicates
from bigtrain.data.originals import Original


def random_text(generator, length):
    return "".join(generator.choices(string.ascii_lowercase, k=length))


def test_signatures_agree_as_often_as_texts_are_similar():
    generator = random.Random(0)
    pairs = []
    for shared in (20, 60, 100, 150, 190):
        for _ in range(40):
            common = random_text(generator, shared)
            pairs.append([common + random_text(generator, 200 - shared) for _ in range(2)])
    found = signatures([text for pair in pairs for text in pair])
    agreeing = (found[0::2] == found[1::2]).mean(axis=1)
    exact = np.array([similarity(*pair) for pair in pairs])
    assert abs((agreeing - exact).mean()) < 0.01
    # A share of 128 has a standard error of 0.044 at most; 200 of them stray by 4 of these at most.
    assert np.abs(agreeing - exact).max() < 4.5 * 0.044


def test_a_text_has_the_same_signature_among_any_others():
    generator = random.Random(1)
    texts = [random_text(generator, length) for length in (0, 1, 4, 5, 6, 300, 40_000, 12)]
    together = signatures(texts)
    for number, text in enumerate(texts):
        assert np.array_equal(together[number], signatures([text])[0])
    assert signatures([]).shape == (0, 128)


def test_every_similar_pair_is_a_candidate():
    generator = random.Random(2)
    texts = [random_text(generator, 80) for _ in range(400)]
    changed = [text[:place] + "#" + text[place + 1 :] for text in texts for place in [generator.randrange(80)]]
    references = References(signatures(texts), np.arange(len(texts), dtype=np.uint64), 0.7)
    pairs = {
        pair for found in references.candidates(signatures(changed)) for pair in zip(*map(list, found), strict=True)
    }
    assert pairs == {(number, number) for number in range(400)}


def findings(rows):
    """What is found, by texts: ids are those of one order of the rows."""

    def read():
        return iter([Original(*row, "") for row in rows])

    texts = {split: [text for of, text, _ in rows if of == split] for split in ("train", "val", "test")}
    table = digest_texts(read)
    found = shared_samples(table)
    found += near_duplicates(read, table, found, 0.7)
    found += [one for split in table for one in repeated_samples(table[split], split)] + conflicting_samples(table)
    named = [(one.kind, one.split, gist_of(texts[one.split][one.sample]), one.other_split) for one in found]
    # Which of several equal texts is the repeated one, and which the other, only the order of the rows says.
    return sorted(one if one[0] != "conflict" else one[:3] for one in named)


words = st.sampled_from(
    ["a fine film about nothing much", "A fine film about nothing, much", "so", "So!", "?", "!", ""]
)
longer = st.builds(lambda text, end: text + end, words, st.sampled_from(["", " x", " and more", " at all"]))
row = st.tuples(st.sampled_from(["train", "val", "test"]), longer, st.integers(0, 1))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, max_size=20), seed=st.integers(0, 1 << 16))
def test_findings_do_not_depend_on_the_order_of_the_rows(rows, seed):
    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    assert findings(shuffled) == findings(rows)


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_the_gist_is_its_own_gist_and_ignores_case_and_space(text):
    gist = gist_of(text)
    assert gist_of(gist) == gist
    assert gist_of(f"  {text}!\n") == gist
