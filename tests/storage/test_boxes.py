"""Boxes of tensors: overlaps, and whether they hold every element exactly once."""

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from bigtrain.storage.boxes import Box, tiling_problem

SHAPES = st.lists(st.integers(0, 6), max_size=3).map(tuple)


@st.composite
def tilings(draw, shape):
    """Boxes that hold every element of `shape` once: cut in two, again and again, at any place; in any order."""
    boxes = [Box.whole(shape)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        along = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(0, box.shape[along]))
        for begin, length in ((0, cut), (cut, box.shape[along] - cut)):
            offsets, lengths = list(box.offsets), list(box.shape)
            offsets[along] += begin
            lengths[along] = length
            boxes.append(Box(tuple(offsets), tuple(lengths)))
    return draw(st.permutations(boxes))


def elements(box):
    ends = [offset + length for offset, length in zip(box.offsets, box.shape, strict=True)]
    return Counter(product(*map(range, box.offsets, ends)))


@given(SHAPES.flatmap(lambda shape: st.tuples(st.just(shape), tilings(shape))))
def test_a_tiling_has_no_problem(drawn):
    assert tiling_problem(*drawn) == ""


@st.composite
def any_boxes(draw):
    shape = draw(SHAPES)
    boxes = draw(tilings(shape))
    for _ in range(draw(st.integers(0, 2))):
        if boxes and draw(st.booleans()):
            boxes = boxes[1:]
        else:
            numbers = st.tuples(*(st.integers(0, length + 1) for length in shape))
            boxes = [*boxes, Box(draw(numbers), draw(numbers))]
    return shape, boxes


@given(any_boxes())
def test_there_is_a_problem_exactly_where_an_element_is_not_held_once(drawn):
    shape, boxes = drawn
    held = sum(map(elements, boxes), Counter())
    right = boxes != [] and held == elements(Box.whole(shape))
    assert (tiling_problem(shape, boxes) == "") is right


@given(st.data(), st.integers(0, 3))
def test_an_overlap_is_what_both_have(data, dimensions):
    numbers = st.tuples(*[st.integers(0, 5)] * dimensions)
    one, other = (Box(data.draw(numbers), data.draw(numbers)) for _ in range(2))
    common = one.overlap(other)
    assert (Counter() if common is None else elements(common)) == elements(one) & elements(other)


def test_many_parts_along_one_dimension_are_compared_in_no_time_of_their_square():
    boxes = [Box((0, 2 * number), (3, 2)) for number in range(5000)]
    calls = Counter()

    class Counting(Box):
        def overlap(self, other):
            calls["overlap"] += 1
            return super().overlap(other)

    counting = [Counting(box.offsets, box.shape) for box in boxes]
    tiling_problem((3, 10_000), counting)
    assert calls["overlap"] <= 2 * len(boxes)


def test_problems_say_what_is_wrong():
    whole = Box((0,), (4,))
    assert tiling_problem((4,), []) == "no part of its shape (4,) is there"
    assert tiling_problem((4,), [Box((0,), (3,))]) == "its parts have 3 of 4 elements"
    assert tiling_problem((4,), [whole, Box((3,), (1,))]) == "two parts overlap: [0:4] and [3:4]"
    assert "reaches out" in tiling_problem((4,), [Box((2,), (3,))])
    assert "no part of a tensor" in tiling_problem((4,), [Box((0, 0), (2, 2))])
