"""Which split each stretch of a corpus belongs to, found in one pass that keeps a few bytes of each document.

Splits are cut by characters, so a corpus need never be in memory. They are tokenised by
`data/text/shards.py`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from bigtrain.data.text.documents import Corpus, in_memory
from bigtrain.errors import DataError
from bigtrain.tracking.status_line import status_line

NANOGPT_FRACTION = 0.9


class Stretch(NamedTuple):
    """Some text of a split, and whether a document ends with it."""

    split: str
    text: str
    ends: bool


@dataclass(frozen=True)
class Divided:
    """A corpus as stretches, each of one split; iterated as often as needed, read anew each time.

    `ends` (N,) int64: the characters of the corpus up to the end of each document, as it is after cutting;
    `split_of` (N,) uint8: the place of its split among `splits`.
    """

    splits: tuple[str, ...]
    corpus: Corpus
    ends: np.ndarray
    split_of: np.ndarray

    @property
    def num_characters(self) -> int:
        """Of the whole corpus."""
        return int(self.ends[-1])

    def documents(self, split: str) -> int:
        """How many there are in a split."""
        return int(np.count_nonzero(self.split_of == self.splits.index(split)))

    def characters(self, split: str) -> int:
        """How many there are in a split."""
        return int(np.diff(self.ends, prepend=0)[self.split_of == self.splits.index(split)].sum())

    def __iter__(self) -> Iterator[Stretch]:
        number, position = 0, 0
        for text, ends in self.corpus:
            while text:
                if number == len(self.ends):
                    raise _changed(self.corpus)
                room = int(self.ends[number]) - position
                is_end = len(text) >= room
                yield Stretch(self.splits[self.split_of[number]], text[:room], is_end)
                position += min(room, len(text))
                number += is_end
                text = text[room:]
            if ends and position != self.ends[number - 1]:
                raise _changed(self.corpus)
        if number != len(self.ends):
            raise _changed(self.corpus)


def given_splits(corpora: Mapping[str, Corpus]) -> Divided:
    """Splits that have documents of their own."""
    lengths = [survey(corpus)[0] for corpus in corpora.values()]
    return Divided(
        splits=tuple(corpora),
        corpus=_chained(list(corpora.values())),
        ends=np.cumsum(np.concatenate(lengths)),
        split_of=np.repeat(np.arange(len(corpora), dtype=np.uint8), list(map(len, lengths))),
    )


def join(first: Divided, second: Divided) -> Divided:
    """The splits of both."""
    return Divided(
        splits=first.splits + second.splits,
        corpus=_chained([first.corpus, second.corpus]),
        ends=np.concatenate((first.ends, second.ends + first.num_characters)),
        split_of=np.concatenate((first.split_of, second.split_of + np.uint8(len(first.splits)))),
    )


def merged(several: list[Divided]) -> Divided:
    """The documents of all, those of a split together under its name."""
    splits = tuple(dict.fromkeys(split for divided in several for split in divided.splits))
    starts = np.cumsum([0, *(divided.num_characters for divided in several)])
    numbers = [np.array([splits.index(split) for split in divided.splits], dtype=np.uint8) for divided in several]
    return Divided(
        splits=splits,
        corpus=_chained([divided.corpus for divided in several]),
        ends=np.concatenate([divided.ends + start for divided, start in zip(several, starts, strict=False)]),
        split_of=np.concatenate([of[divided.split_of] for of, divided in zip(numbers, several, strict=True)]),
    )


def _chained(corpora: list[Corpus]) -> Corpus:
    return Corpus(
        lambda: chain.from_iterable(corpora),
        sum(corpus.size_bytes for corpus in corpora),
        tuple(chain.from_iterable(corpus.files for corpus in corpora)),
    )


def divide(corpus: Corpus, split: str, setting: str = "data.split") -> Divided:
    """Documents (none of them empty) → those of train, val and, where its part is not 0, test.

    `nanogpt`: all but the last 10 % of the characters, as karpathy/nanoGPT's data/shakespeare_char does; there
    is no test split. Fractions of the characters: a single document is cut between characters; several are never cut.
    Which split a document joins depends on the hash of its text, so splits are representative whatever the
    order of the files, and copies of a document join the same split (but for the one at the border). Raises
    DataError for a split that would be empty.
    """
    lengths, digests = survey(corpus)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    if split == "nanogpt":
        splits: tuple[str, ...] = ("train", "val")
        ends, split_of = _cut_at(ends, [int(total * NANOGPT_FRACTION)])
    else:
        fractions = [float(part) for part in split.split(",")]
        splits = ("train", "val", "test") if fractions[2] else ("train", "val")
        borders = [fractions[0] * total, (fractions[0] + fractions[1]) * total][: len(splits) - 1]
        if len(lengths) == 1:
            ends, split_of = _cut_at(ends, list(map(round, borders)))
        else:
            split_of = _share_out(lengths, digests, borders)
    for number, name in enumerate(splits):
        if number not in split_of:
            raise DataError.of(
                "DATA-EMPTY-SPLIT",
                f"the {name} split would be empty",
                cause=f"{setting}={split} of {len(lengths)} document(s), {total} characters",
                fix="give it a larger part, or use data.split=nanogpt, which cuts inside documents, "
                "or give own files (data.train_path, data.val_path)",
            )
    return Divided(splits, corpus, ends, split_of)


def survey(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Characters (N,) int64 and hash (N, 2) uint64 of each document's text, in 24 bytes of memory each."""
    lengths, digests = array("q"), bytearray()
    length, digest, done = 0, _new_digest(), 0
    with status_line("Reading text") as report:
        for text, ends in corpus:
            data = text.encode()
            length += len(text)
            digest.update(data)
            done += len(data)
            if ends:
                lengths.append(length)
                digests += digest.digest()
                length, digest = 0, _new_digest()
            report(min(1.0, done / max(1, corpus.size_bytes)))
    return np.frombuffer(lengths, dtype=np.int64), np.frombuffer(digests, dtype=">u8").reshape(-1, 2)


def hashed_order(documents: list[str]) -> list[int]:
    """Indices of the documents, shuffled by the hash of their texts: the same on every machine."""
    return _order_of(survey(in_memory(documents))[1]).tolist()


def _order_of(digests: np.ndarray) -> np.ndarray:
    return np.lexsort((digests[:, 1], digests[:, 0]))  # equal ones stay in their order


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16, key=b"bigtrain")


def _cut_at(ends: np.ndarray, borders: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ends and splits of the documents, each border the beginning of a split, some documents cut by one."""
    cut = np.unique(np.concatenate((ends, [border for border in borders if 0 < border < ends[-1]])).astype(np.int64))
    return cut, np.searchsorted(borders, cut).astype(np.uint8)


def _share_out(lengths: np.ndarray, digests: np.ndarray, borders: list[float]) -> np.ndarray:
    """The split of each document, cut in hashed order where the characters come nearest to the borders.

    However unequal the documents are, each split gets one at least, if there are enough.
    """
    order = _order_of(digests)
    ends = np.cumsum(lengths[order])
    starts = ends - lengths[order]
    cuts = [int(np.abs(starts - border).argmin()) for border in borders]
    after = len(order)
    for place in reversed(range(len(cuts))):
        after = cuts[place] = min(max(cuts[place], 1 + place), after - 1)
    split_of = np.empty(len(order), dtype=np.uint8)
    split_of[order] = np.searchsorted(cuts, np.arange(len(order)), side="right")
    return split_of


def _changed(corpus: Corpus) -> DataError:
    names = ", ".join(str(state.path) for state in corpus.files if state.has_changed())
    return DataError.of(
        "DATA-CHANGED",
        f"{names or 'the text'} changed while it was being read",
        cause="it was written to, or replaced, between two passes over it",
        fix="start again when nothing writes to it any more",
    )
