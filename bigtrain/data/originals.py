"""Texts as they stand in their source, before they are tokenised and cut: what a data module shows to the audit.

Only data made of text needs this. Images and vectors are as their dataset gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Original(NamedTuple):
    """`label` is None where the data has none; `place` says where it stands ("reviews.tsv:17"), "" where unknown."""

    split: str
    text: str
    label: int | None
    place: str


@dataclass(frozen=True)
class Originals:
    """The texts of every split of a data module.

    `open()` gives a function, each call of which is a pass over all texts, always in the same order. It may hold them
    in memory for as long as it lives.
    """

    key: str  # names everything that the texts and their splits depend on
    unit: str  # what one is: "texts", "sources", "paragraphs"
    open: Callable[[], Callable[[], Iterator[Original]]]
    tokenizer: str  # a sentence: what the tokenizer was fitted to, as far as it is known
    cut: dict[str, int] = field(default_factory=dict)  # per split, texts that lost what is over the longest allowed


class ReadOnce(Generic[T]):
    """What `read` gives, read once for two readers: kept from the first call until `again`, if it is to be kept."""

    def __init__(self, read: Callable[[], T], keep: bool):
        self._read, self._keep = read, keep
        self._kept: list[T] = []

    def __call__(self) -> T:
        """Reads."""
        value = self._read()
        if self._keep:
            self._kept = [value]
        return value

    def again(self) -> T:
        """What is kept, which is then let go; or reads anew."""
        return self._kept.pop() if self._kept else self._read()
