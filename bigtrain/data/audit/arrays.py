"""Reading images, vectors and tokens for the audit: digests of each sample, and images that are nearly the same.

Nearly the same: standardised to mean 0 and deviation 1, so that brightness and contrast don't matter, two images
correlate by 0.997 at least. A perceptual hash of each, the means of 8 x 8 blocks, rules nearly all pairs out: scaled
by the blocks' sizes its distance is never above that of the pixels, so no pair is missed. What is left is compared
pixel by pixel. Mirrored, turned, shifted and cut images are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from bigtrain.data.audit.duplicates import Digests, Table, compared_splits, digest_of
from bigtrain.data.audit.findings import Offence
from bigtrain.data.base import DataModule, Dataset

CORRELATION = 0.997
MOST_PAIRS = 2e10  # compared by hash in half a minute or so
_DISTANCE = 2 * (1 - CORRELATION)  # the mean square difference of standardised pixels
_SIDE = 8  # blocks a side
_READ, _READ_BYTES = 4096, 64 << 20  # samples gathered at once, at most so many bytes
_TILE = (1024, 8192)  # distances held at once: 32 MB


def digest_samples(data: DataModule, report: Callable[[float], None] = lambda fraction: None) -> Table:
    """Digests of what each dataset gathers, by split. `report` is told how much of it is done."""
    table, done, total = {}, 0, sum(data.spec.sizes.values())
    for split, size in data.spec.sizes.items():
        dataset, exact, labels = data.dataset(split), np.empty(size, dtype=np.uint64), []
        for start, samples in _blocks(dataset):
            contents, label = _contents(samples)
            exact[start : start + len(contents)] = [digest_of(content.tobytes()) for content in contents]
            labels += [label] if label is not None else []
            report((done + start + len(contents)) / total)
        done += size
        table[split] = Digests(exact, exact, np.concatenate(labels) if labels else None)
    return table


def near_images(data: DataModule, table: Table, known: list[Offence]) -> list[Offence]:
    """Each image of val and test with the one of an earlier split that is most like it, where they are nearly the
    same; without those that are `known` to stand there anyway.
    """
    done = {(offence.other_split, offence.split, offence.sample) for offence in known}
    hashes = {split: _hashes(data.dataset(split)) for split in table}
    found = []
    for first, later in compared_splits(table):
        wanted = [one for one in range(len(hashes[later])) if (first, later, one) not in done]
        best: dict[int, tuple[float, int, int]] = {}
        ids = np.array(wanted, dtype=np.int64)
        for others, ones in _close(hashes[first], hashes[later][ids]):
            pairs = zip(_pixels(data.dataset(later), ids[ones]), _pixels(data.dataset(first), others), strict=True)
            for one, other, (pixels, its) in zip(ids[ones].tolist(), others.tolist(), pairs, strict=True):
                alike = float(pixels @ its) / len(pixels)
                ranked = (alike, int(table[first].exact[other]), other)
                if alike >= CORRELATION and ranked > best.get(one, (0.0, 0, 0)):
                    best[one] = ranked
        found += [
            Offence("near", later, one, first, other, round(alike, 4))
            for one, (alike, _, other) in sorted(best.items())
        ]
    return found


def label_of(data: DataModule, split: str, sample: int) -> int | None:
    """The class of one sample, where it has one."""
    labels = data.dataset(split).gather(np.array([sample])).get("labels")
    return None if labels is None else int(labels[0])


def _blocks(dataset: Dataset) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    count = _read_at_once(dataset)
    for start in range(0, len(dataset), count):
        ids = np.arange(start, min(start + count, len(dataset)))
        yield start, {name: tensor.numpy() for name, tensor in dataset.gather(ids).items()}


def _read_at_once(dataset: Dataset) -> int:
    """Samples; of photographs fewer than of digits."""
    if not len(dataset):
        return _READ
    first = dataset.gather(np.zeros(1, dtype=np.int64))
    return max(1, min(_READ, _READ_BYTES // max(1, sum(value.nbytes for value in first.values()))))


def _contents(samples: dict[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray | None]:
    """What a model reads of each sample, without padding; and the labels."""
    name = next(name for name in ("images", "vectors", "source", "tokens") if name in samples)
    lengths = samples.get("source_lengths" if name == "source" else "lengths")
    rows = list(samples[name])
    if lengths is not None:
        rows = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
    return rows, samples.get("labels")


def _standardised(images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) → fp32 of mean 0 and mean square 1 over an image; one of a single colour is all 0."""
    pixels = images.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2, 3), keepdims=True)
    norms = np.sqrt(np.square(pixels).mean(axis=(1, 2, 3), keepdims=True))
    return pixels / np.where(norms > 0, norms, 1)


def _hashes(dataset: Dataset) -> np.ndarray:
    """(N, 64 at most) fp32; the square distance of two is at most the mean square difference of the pixels."""
    found = []
    for _, samples in _blocks(dataset):
        pixels = _standardised(samples["images"])
        channels, sizes = pixels.shape[1], []
        for axis in (2, 3):
            edges = np.unique(np.linspace(0, pixels.shape[axis], _SIDE + 1).astype(int))
            pixels = np.add.reduceat(pixels, edges[:-1], axis=axis)
            sizes.append(np.array([end - start for start, end in pairwise(edges)]))
        sums, area = pixels.sum(axis=1), channels * np.outer(*sizes)
        found.append((sums / np.sqrt(area * area.sum())).reshape(len(sums), -1).astype(np.float32))
    return np.concatenate(found)


def _close(firsts: np.ndarray, laters: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids of the pairs (first, later) whose hashes are close enough, tile by tile."""
    rows, columns = _TILE
    bounds = (np.square(firsts).sum(axis=1) - _DISTANCE - 1e-5) / 2, np.square(laters).sum(axis=1) / 2
    for start in range(0, len(laters), rows):
        for begin in range(0, len(firsts), columns):
            dots = laters[start : start + rows] @ firsts[begin : begin + columns].T
            dots -= bounds[0][begin : begin + columns]
            later, first = np.nonzero(dots >= bounds[1][start : start + rows, None])
            if len(later):
                yield first + begin, later + start


def _pixels(dataset: Dataset, ids: np.ndarray) -> Iterator[np.ndarray]:
    count = _read_at_once(dataset)
    for start in range(0, len(ids), count):
        images = dataset.gather(ids[start : start + count])["images"].numpy()
        yield from _standardised(images).reshape(len(images), -1)
