"""What a model may know already: samples that it is measured on, and that stand in what it was trained on.

The audit of one data set can't see it where they are of two: texts of an earlier stage, labelled or not, or a file that
`bigtrain eval` is given. Such a measure is too good.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigtrain.config.kinds import Audit, DataConfig
from bigtrain.data.audit.arrays import digest_samples
from bigtrain.data.audit.duplicates import digest_of
from bigtrain.data.audit.short import is_larger
from bigtrain.data.audit.stretches import known_stretches, stretch_length
from bigtrain.data.audit.texts import Pass, digest_texts, gist_of
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.originals import Original, Originals
from bigtrain.tracking.status_line import status_line

_VERSION = 2  # of what is compared; part of the cache key
_MOST_SAMPLES = 1_000_000
_MOST_BYTES = 512 << 20  # of texts: 20 s, once
_REPORT_EVERY = 1024  # texts


class Seen(NamedTuple):
    """`found` of a split's `total` samples, texts or images, stand in another data set's train split."""

    split: str
    found: int
    total: int
    unit: str


def seen_before(
    data: DataModule, config: DataConfig, earlier: DataModule, splits: Sequence[str] = ("val", "test")
) -> list[Seen]:
    """Of these splits: which samples stand as a whole, but for case, space and punctuation, in `earlier`'s train split.

    Empty where the two can't be compared, or have nothing that is long enough for it.
    """
    known = None if why_not_compared(data, config, earlier) else gists_of(earlier, config).get("train")
    if known is None:
        return []
    table = gists_of(data, config)
    return [
        Seen(split, int(np.isin(table[split], known).sum()), len(table[split]), unit_of(data))
        for split in splits
        if split in table
    ]


def stretches_seen(data: DataModule, config: DataConfig, earlier: DataModule, split: str) -> Seen:
    """Of two corpora that one tokenizer has read: which stretches of a split stand in `earlier`'s train split."""
    length = stretch_length(data, split)
    key = fingerprint_of(_VERSION, data.spec.fingerprint, earlier.spec.fingerprint, split, length)
    build = lambda: known_stretches(data.dataset(split), earlier.dataset("train"), length)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cache that can't be written the data module has warned
        root = cache_root(config.cache_dir)
        found, total = load_or_build(root, "stretches", key, lambda: Prepared({"found": build()}, {})).meta["found"]
    return Seen(split, found, total, f"stretches of {length} tokens")


def why_not_compared(data: DataModule, config: DataConfig, earlier: DataModule) -> str:
    """A sentence where two data sets can't be compared, or are not to be; else ""."""
    specs = (data.spec, earlier.spec)
    if config.audit is Audit.off:
        return "data.audit=off"
    if any(spec.optimal_loss is not None or spec.optimal_accuracy is not None for spec in specs):
        return "its samples are drawn, and the best possible result is known"
    texts = [one.originals is not None for one in (data, earlier)]
    same = specs[0].kind == specs[1].kind and specs[0].input_shape == specs[1].input_shape
    if not all(texts) and (any(texts) or specs[0].input_shape is None or not same):
        return "its samples are of another kind"
    return next((reason for reason in map(why_too_large, specs) if reason), "")


def why_too_large(spec: DataSpec) -> str:
    """A sentence where data is so large that comparing it would be waited for; else ""."""
    if is_larger(spec, _MOST_SAMPLES, _MOST_BYTES):
        return f"{sum(spec.sizes.values()):,} samples are too many"
    return ""


def gists_of(data: DataModule, config: DataConfig) -> dict[str, np.ndarray]:
    """By split, a digest (N,) uint64 of each sample; of texts, without case, space and punctuation. Kept in the cache.

    A split of which there is nothing to compare is left out, such as one of short lines.
    """
    originals = data.originals
    key = fingerprint_of(_VERSION, originals.key if originals else "", data.spec.fingerprint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cache that can't be written the data module has warned
        root = cache_root(config.cache_dir)
        return load_or_build(root, "gists", key, lambda: Prepared({}, _gists(data, originals))).arrays


def gist_digest(text: str) -> int:
    """What stands for a text in `gists_of`."""
    return digest_of((gist_of(text) or text).encode())


def unit_of(data: DataModule) -> str:
    """What its samples are called: texts, sources, paragraphs, images."""
    originals = data.originals
    return originals.unit if originals else data.spec.kind


def _gists(data: DataModule, originals: Originals | None) -> dict[str, np.ndarray]:
    with status_line("Looking for samples of the training data") as report:
        if originals is None:
            table = digest_samples(data, report)
        else:
            table = digest_texts(_reported(originals.open(), data.spec, report))
    return {split: digests.gist for split, digests in table.items()}


def _reported(read: Pass, spec: DataSpec, report: Callable[[float], None]) -> Pass:
    """A pass that reports how far it is."""
    total = sum(spec.sizes.values())
    if spec.kind == "text":  # windows, and what is read is paragraphs
        total *= spec.sequence_length or 1

    def watched() -> Iterator[Original]:
        done = 0
        for number, one in enumerate(read()):
            done += len(one.text) if spec.kind == "text" else 1
            if number % _REPORT_EVERY == 0:
                report(min(1.0, done / total))
            yield one

    return watched
