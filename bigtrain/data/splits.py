"""Divides labelled samples into train, val and test so that each class is in each of them, as far as it has samples.

Where a data set brings its splits they are left as they are; what is missing in them is said here too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

_NAMED = 5  # classes, in a sentence


def split_by_class(
    labels: np.ndarray, hashes: np.ndarray, val_fraction: float, test_fraction: float
) -> dict[str, np.ndarray]:
    """Split → ids (ascending): of each class the same shares, and one sample at least of each that is not 0.

    Which samples: those with the smallest `hashes` (N,) uint64, whose lower half decides on test and upper half on val.
    So few change their split when others come or go. Samples of one hash are copies: they stay together, in the split
    that is due to the class of the first. A class of one sample is in train, one of two in train and val.
    """
    known, first, copies = np.unique(hashes, return_index=True, return_inverse=True)
    splits = np.zeros(len(known), dtype=np.int8)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[first] == label)
        num_val, num_test = _quotas(len(members), val_fraction, test_fraction)
        members = members[np.argsort(known[members] & np.uint64(0xFFFFFFFF), kind="stable")]
        rest = members[num_test:]
        splits[members[:num_test]] = 2
        splits[rest[np.argsort(known[rest] >> np.uint64(32), kind="stable")[:num_val]]] = 1
    return {name: np.flatnonzero(splits[copies] == number) for number, name in enumerate(("train", "val", "test"))}


def _quotas(count: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """How many of a class's samples go to val and to test; test is cut off first, and one sample stays in train."""
    spare = max(count - 1, 0)
    least_val = min(spare, int(val_fraction > 0))
    least_test = min(spare - least_val, int(test_fraction > 0))
    num_test = min(max(round(test_fraction * count), least_test), spare - least_val)
    num_val = min(max(round(val_fraction * (count - num_test)), least_val), spare - num_test)
    return num_val, num_test


def swap_in_missing(labels: np.ndarray, train: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of train and val, changed only where one of them has no sample of a class of which the other has two, or
    train none of a class of which val has one.

    Then the first of these comes over, for the last of the class that there are most of: numbers stay, if they can.
    """
    train, val = _with_missing(labels, train, val, spares_last=False)
    val, train = _with_missing(labels, val, train, spares_last=True)
    return train, val


def _with_missing(
    labels: np.ndarray, source: np.ndarray, target: np.ndarray, spares_last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`spares_last`: the source gives the only sample of a class too, if it gets another in exchange."""
    num_classes = int(labels.max()) + 1
    in_source, in_target = (np.bincount(labels[ids], minlength=num_classes) for ids in (source, target))
    for label in np.flatnonzero((in_target == 0) & (in_source > 0)):
        largest = int(in_target.argmax())
        if in_source[label] == 1 and not (spares_last and in_target[largest] > 1):
            continue
        there, back = source[labels[source] == label][:1], target[labels[target] == largest][1:][-1:]
        source, target = (
            np.append(np.setdiff1d(source, there, assume_unique=True), back),
            np.append(np.setdiff1d(target, back, assume_unique=True), there),
        )
        in_target[largest] -= len(back)
    return source, target


def warn_of_missing_classes(
    names: Sequence[str], labels: Mapping[str, np.ndarray], fixes: Mapping[str, str] | None = None
) -> None:
    """Says which classes are missing in a split and stand in another. `labels`: of each split that was asked for,
    perhaps none; `fixes`: per split, how to mend it.
    """
    present = {split: np.bincount(of_split, minlength=len(names)) > 0 for split, of_split in labels.items()}
    anywhere = np.any(list(present.values()), axis=0)
    for split, there in present.items():
        missing = [names[label] for label in np.flatnonzero(anywhere & ~there).tolist()]
        if missing:
            more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
            named = ", ".join(missing[:_NAMED]) + more
            which = f"no sample of {len(missing):,} of the {len(names):,} classes ({named})"
            fix = (fixes or {}).get(split, "")
            warnings.warn(f"{split} has {which if there.any() else 'no samples'}{fix and '; '}{fix}.", stacklevel=2)
