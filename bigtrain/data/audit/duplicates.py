"""Samples that are equal, found by 64-bit digests: across splits, within train, and with different labels.

Digests come from `data/audit/texts.py` and `data/audit/arrays.py`. Two samples of a million
have one digest by chance with a probability of 3e-8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bigtrain.data.audit.findings import Offence
from bigtrain.data.base import SPLITS


@dataclass(frozen=True)
class Digests:
    """Of the samples of one split: `exact` (N,) uint64 of each as it is, `gist` (N,) of each after normalisation (the
    same array where nothing is normalised), and `labels` (N,) int64, or None.
    """

    exact: np.ndarray
    gist: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.exact)


Table = dict[str, Digests]


def digest_of(content: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def compared_splits(splits: Table) -> Iterator[tuple[str, str]]:
    """What is compared: what comes first with what is measured later."""
    there = [split for split in SPLITS if split in splits]
    return ((first, later) for number, first in enumerate(there) for later in there[number + 1 :])


def shared_samples(table: Table) -> list[Offence]:
    """Samples of a later split that stand in an earlier one: "exact", or "normalised" where only the gist is equal."""
    found = []
    for first, later in compared_splits(table):
        exact = _places(table[later].exact, table[first].exact)
        gist = _places(table[later].gist, table[first].gist)
        for kind, places, chosen in (("exact", exact, exact >= 0), ("normalised", gist, (exact < 0) & (gist >= 0))):
            ids = np.flatnonzero(chosen)
            others = places[ids].tolist()
            found += [
                Offence(kind, later, *pair[:1], first, *pair[1:]) for pair in zip(ids.tolist(), others, strict=True)
            ]
    return found


def repeated_samples(digests: Digests, split: str) -> list[Offence]:
    """Samples whose gist an earlier sample of their split has."""
    first = _places(digests.gist, digests.gist)
    ids = np.flatnonzero(first != np.arange(len(first)))
    return [
        Offence("repeat", split, one, split, other)
        for one, other in zip(ids.tolist(), first[ids].tolist(), strict=True)
    ]


def conflicting_samples(table: Table) -> list[Offence]:
    """Samples whose gist stands somewhere with another label, with the first such sample."""
    labels_of = {split: digests.labels for split, digests in table.items() if digests.labels is not None}
    if not labels_of:
        return []
    splits = [split for split in SPLITS if split in labels_of]
    gists = np.concatenate([table[split].gist for split in splits])
    labels = np.concatenate([labels_of[split] for split in splits])  # type: ignore[misc]
    starts = np.cumsum([0, *(len(table[split]) for split in splits)])
    order = np.argsort(gists, kind="stable")
    heads = np.flatnonzero(np.diff(gists[order], prepend=~gists[order[:1]]))
    lowest, highest = (reduce.reduceat(labels[order], heads) for reduce in (np.minimum, np.maximum))
    ends = np.append(heads[1:], len(order))
    found = []
    for group in np.flatnonzero(lowest != highest).tolist():
        members = order[heads[group] : ends[group]]
        for sample in members.tolist():
            other = int(members[np.argmax(labels[members] != labels[sample])])
            places = [(int(np.searchsorted(starts, one, side="right")) - 1, one) for one in (sample, other)]
            (mine, sample), (its, other) = places
            found.append(
                Offence("conflict", splits[mine], sample - int(starts[mine]), splits[its], other - int(starts[its]))
            )
    return found


def _places(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The first place (N,) of each of the wanted among the others; -1 where there is none."""
    if not len(among):
        return np.full(len(wanted), -1)
    order = np.argsort(among, kind="stable")
    place = np.searchsorted(among[order], wanted)
    found = order[np.minimum(place, len(among) - 1)]
    return np.where(among[found] == wanted, found, -1)
