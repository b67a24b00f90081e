"""Reading texts for the audit: digests of each, near-duplicates across splits. A pass holds some bytes of each text of
the evaluation splits and of train (24; 830 of an evaluation split's while near-duplicates are looked for), never the
texts.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

from bigtrain.data.audit.duplicates import Digests, Table, compared_splits, digest_of
from bigtrain.data.audit.findings import Offence
from bigtrain.data.audit.min_hash import References, signatures, similarity
from bigtrain.data.base import SPLITS
from bigtrain.data.originals import Original

Pass = Callable[[], Iterator[Original]]

_BLOCK = 4096  # texts compared at once
_NOT_WORD = re.compile(r"[\W_]+")


def gist_of(text: str) -> str:
    """The text without case, space and punctuation; "" where nothing is left."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _NOT_WORD.sub("", text.casefold())


def digest_texts(read: Pass) -> Table:
    """Digests of the texts as they stand and of their gists, by split."""
    exact, gists, labels = ({split: array(code) for split in SPLITS} for code in ("Q", "Q", "q"))
    for split, text, label, _ in read():
        digest = digest_of(text.encode())
        gist = gist_of(text)
        exact[split].append(digest)
        gists[split].append(digest_of(gist.encode()) if gist else digest)
        if label is not None:
            labels[split].append(label)
    return {
        split: Digests(
            np.array(exact[split], dtype=np.uint64),
            np.array(gists[split], dtype=np.uint64),
            np.array(labels[split], dtype=np.int64) if labels[split] else None,
        )
        for split in SPLITS
        if exact[split]
    }


def near_duplicates(read: Pass, table: Table, known: Iterable[Offence], threshold: float) -> list[Offence]:
    """Each text of val and test with the one of an earlier split that is most like it, where it is at least
    `threshold`; without those that are `known` to stand there anyway.
    """
    done = {(offence.other_split, offence.split, offence.sample) for offence in known}
    found: list[Offence] = []
    for later in (split for split in ("val", "test") if split in table):
        earlier = [first for first, second in compared_splits(table) if second == later]
        wanted = _first_of_each(table[later].gist)
        for first in earlier:
            wanted_here = np.array([one for one in wanted.tolist() if (first, later, one) not in done], dtype=np.int64)
            if len(wanted_here):
                found += _most_similar(read, table, first, later, wanted_here, threshold)
    return found


def _most_similar(
    read: Pass, table: Table, first: str, later: str, wanted: np.ndarray, threshold: float
) -> list[Offence]:
    gists = list(_gists(read, later, wanted))
    references = References(signatures(gists), table[later].gist[wanted], threshold)
    best: dict[int, tuple[float, int, int]] = {}  # reference → similarity, digest and id of the most similar text
    others = _first_of_each(table[first].gist)
    texts = _gists(read, first, others)
    for start in range(0, len(others), _BLOCK):
        block = list(islice(texts, _BLOCK))
        for pair in references.candidates(signatures(block)):
            for reference, text in zip(*(ids.tolist() for ids in pair), strict=True):
                sample = int(others[start + text])
                alike = similarity(gists[reference], block[text])
                ranked = (alike, int(table[first].gist[sample]), sample)
                if alike >= threshold and ranked > best.get(reference, (0.0, 0, 0)):
                    best[reference] = ranked
    nearest = {int(table[later].gist[wanted[reference]]): rank for reference, rank in best.items()}
    offences = []
    for sample, digest in enumerate(table[later].gist.tolist()):  # those that repeat one another all count
        if digest in nearest:
            alike, _, other = nearest[digest]
            offences.append(Offence("near", later, sample, first, other, round(alike, 4)))
    return offences


def _first_of_each(gists: np.ndarray) -> np.ndarray:
    """The ids of texts that no earlier one equals."""
    return np.sort(np.unique(gists, return_index=True)[1])


def _gists(read: Pass, split: str, ids: np.ndarray) -> Iterator[str]:
    """The gists of these texts of a split; `ids` ascend. Nothing but punctuation stands as it is."""
    wanted = iter(ids.tolist())
    following = next(wanted, None)
    texts = (text for of_split, text, _, _ in read() if of_split == split)
    for number, text in enumerate(texts):
        if number == following:
            yield gist_of(text) or text
            following = next(wanted, None)
            if following is None:
                return
