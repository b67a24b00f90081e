"""The names of classes, from the labels of a table: what counts as one label, in which order, and what looks like none.

Labels are words or numbers. 1.0, as a spreadsheet may write it, is the number 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]*)?")
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})\.0*")
_UNLABELLED = frozenset({"", "-1", "?"})  # what stands where the labels of a test split are kept secret, as GLUE's are


def is_number(label: str) -> bool:
    """Whether a label is one, whole or not."""
    return _NUMBER.fullmatch(label) is not None


def plain(label: str) -> str:
    """The same for all ways to write a label: "1.0" is "1"."""
    whole = _WHOLE.fullmatch(label)
    return whole[1] if whole else label


def names_of(labels: Collection[str]) -> tuple[str, ...]:
    """The classes that occur: numbers in their order, words sorted. One that is written in several ways ("1", "1.0")
    is named by the shortest.
    """
    names: dict[str, str] = {}
    for label in sorted(set(labels), key=lambda label: (len(label), label)):
        names.setdefault(plain(label), label)
    if all(map(is_number, names)):
        return tuple(sorted(names.values(), key=lambda name: (float(name), name) if "." in name else (int(name), name)))
    return tuple(sorted(names.values()))


def numbers_of(names: tuple[str, ...]) -> dict[str, int]:
    """The number of each class by its plain name; and, where no name is a number itself, by that number."""
    numbers = {plain(name): number for number, name in enumerate(names)}
    if not any(map(is_number, names)):
        numbers |= {str(number): number for number in range(len(names))}
    return numbers


def are_none(labels: Iterable[str], numbers: Collection[str]) -> bool:
    """Whether these are no labels at all: none of them is a class, and each is empty or a stand-in."""
    return all(plain(label) in _UNLABELLED and plain(label) not in numbers for label in set(labels))


def looks_like_header(labels: list[str], numbers: Collection[str]) -> bool:
    """Whether the first of the labels is no class, and all others, at least one, are. `numbers`: the known classes;
    where there are none, whether the first occurs once, and each other one more often.
    """
    first, others = labels[0], labels[1:]
    if numbers:
        return bool(others) and plain(first) not in numbers and all(plain(label) in numbers for label in set(others))
    counts = Counter(labels)
    return counts[first] == 1 and all(count > 1 for label, count in counts.items() if label != first)
