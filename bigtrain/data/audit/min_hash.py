"""Texts that are nearly the same, without comparing all with all: MinHash signatures of character 5-grams (Broder
1997), cut into bands; texts that agree in a whole band are candidates (Leskovec et al., Mining of Massive Datasets,
3.4).

The similarity of two texts is that of Jaccard: 5-grams in both over 5-grams in either. Two texts of similarity s have
128 numbers of which a share s agrees, and are candidates with a probability of 1 - (1 - s^4)^32: 0.9998 at s = 0.7,
0.02 at 0.15. References are held in memory, at 800 bytes each; what is compared with them passes by in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAM = 5  # characters: one sentence in eight of SST-2 has no eight words, to say nothing of more
_BANDS, _ROWS = 32, 4
_HASHES = _BANDS * _ROWS
_PASS = 1 << 15  # characters hashed at once: 128 kB stay in the second-level cache
_BUCKET = 32  # references at most that a text meets in one band: boilerplate would be a square of pairs
_BLOCK = 1 << 16  # candidates whose signatures are compared at once
_DEVIATIONS = 3.0  # the share of agreeing numbers may be so far below the similarity looked for

_DRAWN = np.random.default_rng(128).integers(1 << 32, size=(2, _HASHES), dtype=np.uint64).astype(np.uint32)
_MASKS, _FACTORS = _DRAWN[0], _DRAWN[1] | np.uint32(1)
_POWERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], dtype=np.uint32)


def signatures(texts: Sequence[str]) -> np.ndarray:
    """(N, 128) uint32: for each of 128 hash functions the least hash of the text's 5-grams."""
    found = np.empty((len(texts), _HASHES), dtype=np.uint32)
    first, length = 0, 0
    for number, text in enumerate(texts):
        length += max(GRAM, len(text))
        if length >= _PASS or number == len(texts) - 1:
            found[first : number + 1] = _signatures_of(texts[first : number + 1])
            first, length = number + 1, 0
    return found


def similarity(one: str, other: str) -> float:
    """Jaccard's, of the 5-grams of two texts."""
    grams, others = _grams(one), _grams(other)
    return len(grams & others) / len(grams | others)


class References:
    """Texts to find near-duplicates of. `digests` (N,) put them in an order that is theirs, not that of their rows."""

    def __init__(self, signatures: np.ndarray, digests: np.ndarray, threshold: float):
        self._signatures = signatures
        slack = _DEVIATIONS * np.sqrt(threshold * (1 - threshold) / _HASHES)
        self._least = int(np.floor((threshold - slack) * _HASHES))
        keys = _band_keys(signatures)
        self._orders = [np.lexsort((digests, keys[band])) for band in range(_BANDS)]
        self._keys = [keys[band][order] for band, order in enumerate(self._orders)]

    def __len__(self) -> int:
        return len(self._signatures)

    def candidates(self, signatures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (references, texts) that may be similar enough, given the signatures of a block of texts."""
        found = []
        for band, keys in enumerate(_band_keys(signatures)):
            starts, ends = (np.searchsorted(self._keys[band], keys, side=side) for side in ("left", "right"))
            texts = np.flatnonzero(ends > starts)
            counts = np.minimum(ends - starts, _BUCKET)[texts]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            references = self._orders[band][np.repeat(starts[texts], counts) + within]
            found.append(references * len(signatures) + np.repeat(texts, counts))
        pairs = np.unique(np.concatenate(found))
        for start in range(0, len(pairs), _BLOCK):
            references, texts = np.divmod(pairs[start : start + _BLOCK], len(signatures))
            agreeing = np.count_nonzero(self._signatures[references] == signatures[texts], axis=1)
            likely = agreeing >= self._least
            yield references[likely], texts[likely]


def _signatures_of(texts: Sequence[str]) -> np.ndarray:
    padded = [text.ljust(GRAM, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), dtype="<u4")
    grams = np.zeros(len(codes) - GRAM + 1, dtype=np.uint32)
    for place, power in enumerate(_POWERS):
        grams += codes[place : place + len(grams)] * power
    ends = np.cumsum([len(text) for text in padded])
    inside = np.ones(len(codes), dtype=bool)
    for back in range(1, GRAM):
        inside[ends - back] = False  # what begins here reaches into the next text
    grams = _mixed(grams[inside[: len(grams)]])
    starts = np.append(0, (ends - (GRAM - 1) * np.arange(1, len(texts) + 1))[:-1])
    found = np.empty((len(texts), _HASHES), dtype=np.uint32)
    hashed = np.empty_like(grams)
    for number in range(_HASHES):
        np.bitwise_xor(grams, _MASKS[number], out=hashed)
        np.multiply(hashed, _FACTORS[number], out=hashed)
        found[:, number] = np.minimum.reduceat(hashed, starts)
    return found


def _mixed(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> np.uint32(shift))) * np.uint32(factor)
    return values ^ (values >> np.uint32(16))


def _band_keys(signatures: np.ndarray) -> np.ndarray:
    """(32, N) uint64: four numbers of a signature in one."""
    keys = np.zeros((_BANDS, len(signatures)), dtype=np.uint64)
    for row in range(_ROWS):
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + signatures[:, row::_ROWS].T
    return keys ^ (keys >> np.uint64(29))


def _grams(text: str) -> set[str]:
    text = text.ljust(GRAM, "\0")
    return {text[start : start + GRAM] for start in range(len(text) - GRAM + 1)}
