"""Boxes: the parts of a tensor along all of its dimensions. Which of them overlap, and whether some are the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Box:
    """A part of a tensor: along dimension d the elements from `offsets[d]` on, `shape[d]` of them."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """All of a tensor of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def overlap(self, other: Box) -> Box | None:
        """What the two have in common; None where that is nothing."""
        begins = tuple(map(max, self.offsets, other.offsets))
        ends = [min(mine, theirs) for mine, theirs in zip(self._ends(), other._ends(), strict=True)]
        shape = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
        return Box(begins, shape) if all(length > 0 for length in shape) else None

    def within(self, outer: Box) -> tuple[slice, ...]:
        """The slices that take this box out of the elements of `outer`, which holds it."""
        begins = [mine - theirs for mine, theirs in zip(self.offsets, outer.offsets, strict=True)]
        return tuple(slice(begin, begin + length) for begin, length in zip(begins, self.shape, strict=True))

    def _ends(self) -> list[int]:
        return [offset + length for offset, length in zip(self.offsets, self.shape, strict=True)]


def tiling_problem(shape: Sequence[int], boxes: Sequence[Box]) -> str:
    """Why boxes do not hold every element of a tensor of this shape exactly once, in words; "" where they do."""
    whole = Box.whole(shape)
    for box in boxes:
        if len(box.offsets) != len(shape) or any(length < 0 for length in box.shape):
            return f"a part {box} is no part of a tensor of shape {tuple(shape)}"
        if box.size and box.overlap(whole) != box:
            return f"the part {_words(box)} reaches out of its shape {tuple(shape)}"
    if not boxes:
        return f"no part of its shape {tuple(shape)} is there"
    if pair := _overlapping([box for box in boxes if box.size], len(shape)):
        return f"two parts overlap: {_words(pair[0])} and {_words(pair[1])}"
    held = sum(box.size for box in boxes)
    return "" if held == whole.size else f"its parts have {held:,} of {whole.size:,} elements"


def _overlapping(boxes: Sequence[Box], dimensions: int) -> tuple[Box, Box] | None:
    """Two boxes that overlap: each is compared with those that reach beyond its offset in the dimension that tells
    most of them apart, so that parts along one dimension take no time that grows as their square.
    """
    if dimensions == 0:
        return (boxes[0], boxes[1]) if len(boxes) > 1 else None
    along = max(range(dimensions), key=lambda dimension: len({box.offsets[dimension] for box in boxes}))
    open_boxes: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.offsets[along]):
        open_boxes = [other for other in open_boxes if other.offsets[along] + other.shape[along] > box.offsets[along]]
        for other in open_boxes:
            if box.overlap(other) is not None:
                return other, box
        open_boxes.append(box)
    return None


def _words(box: Box) -> str:
    ends = [offset + length for offset, length in zip(box.offsets, box.shape, strict=True)]
    return "[" + ", ".join(f"{begin}:{end}" for begin, end in zip(box.offsets, ends, strict=True)) + "]"
