"""Which split each labelled text joins: equal shares of each class, each class in each split where there are enough of
it, and copies of a text together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bigtrain.data.base import SPLITS
from bigtrain.data.text.division import hashed_order
from bigtrain.errors import DataError


@dataclass(frozen=True)
class LabelledText:
    """`label` counts from 0; `place` says where the text stands, for messages: "reviews.tsv:17"."""

    text: str
    label: int
    place: str


Parts = dict[str, list[LabelledText]]


def fractions_of(split: str) -> dict[str, float]:
    """ "0.8,0.1,0.1" → the part of train, val and test; a split without any is left out."""
    parts = zip(SPLITS, map(float, split.split(",")), strict=True)
    return {name: part for name, part in parts if part > 0}


def divide_by_class(texts: list[LabelledText], fractions: Mapping[str, float], setting: str) -> Parts:
    """Splits (train first) with equal shares of each class. Raises DataError, naming the setting that the fractions are
    from, for a split that would be empty.

    Which split a text joins depends on the hashes of the texts, so neither the order of the rows nor the machine
    matters. Copies of a text join the same split, whatever their labels. A class of which there are enough different
    texts has one at least in each split; of fewer, train has the first.
    """
    by_class: dict[int, dict[str, list[LabelledText]]] = {}
    for one in texts:
        by_class.setdefault(one.label, {}).setdefault(one.text, []).append(one)
    ranked = []
    for label, copies in sorted(by_class.items()):
        distinct = list(copies)
        order = enumerate(hashed_order(distinct))
        ranked += [(rank / len(distinct), label, copies[distinct[index]]) for rank, index in order]
    ranked.sort(key=lambda one: one[:2])  # wherever it is cut, each class has its share before and after
    cuts = np.rint(np.cumsum([0, *fractions.values()]) * len(ranked)).astype(int).tolist()
    groups = [copies for _, _, copies in ranked]
    split_of = [
        name for name, (first, last) in zip(fractions, pairwise(cuts), strict=True) for _ in range(last - first)
    ]
    _join_copies(groups, split_of)
    _fill(groups, split_of, list(fractions))
    parts = {
        name: [one for copies, of in zip(groups, split_of, strict=True) if of == name for one in copies]
        for name in fractions
    }
    for name, part in parts.items():
        if not part:
            raise DataError.of(
                "DATA-EMPTY-SPLIT",
                f"the {name} split would be empty",
                cause=f"{setting} of {len(texts)} text(s), {len({one.text for one in texts})} of them different",
                fix="give more texts, or each split its own file (data.train_path, data.val_path)",
            )
    return parts


def _join_copies(groups: list[list[LabelledText]], split_of: list[str]) -> None:
    """Moves the copies of a text that have another label to the first of them."""
    first: dict[str, int] = {}
    for index, group in enumerate(groups):
        split_of[index] = split_of[first.setdefault(group[0].text, index)]


def _fill(groups: list[list[LabelledText]], split_of: list[str], splits: list[str]) -> None:
    """Moves texts into splits that lack a class, out of the split that has the most of it; into val first, then test. A
    text with several labels stays where it is.
    """
    labels_of = Counter(group[0].text for group in groups)
    movable: dict[int, dict[str, list[int]]] = {}
    present: dict[int, set[str]] = {}
    for index, group in enumerate(groups):
        label, split = group[0].label, split_of[index]
        present.setdefault(label, set()).add(split)
        if labels_of[group[0].text] == 1:
            movable.setdefault(label, {}).setdefault(split, []).append(index)
    for label in sorted(movable):
        for split in splits:
            if split not in present[label]:
                source = max(splits, key=lambda name: len(movable[label].get(name, ())))
                from_there = movable[label][source]
                if len(from_there) > 1 or split == splits[0]:
                    index = from_there.pop()
                    split_of[index] = split
                    movable[label].setdefault(split, []).append(index)
                    present[label].add(split)


def absent_classes(parts: Parts, names: tuple[str, ...]) -> list[str]:
    """A sentence for each split that lacks some of the classes that there are."""
    there = {one.label for part in parts.values() for one in part}
    found = []
    for split, part in parts.items():
        if lacking := sorted(there - {one.label for one in part}):
            found.append(f"{split} has no text of the class {', '.join(names[label] for label in lacking)}")
    return found
