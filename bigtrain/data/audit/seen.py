"""What a model may know already: samples of val and test that stand in the training data of a stage before.

The audit of one data set can't see it: pretraining on texts that a later stage is measured on, labelled or not, makes
that measure too good.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from bigtrain.config.kinds import Audit, DataConfig
from bigtrain.data.audit.arrays import digest_samples
from bigtrain.data.audit.duplicates import Table
from bigtrain.data.audit.short import is_too_large
from bigtrain.data.audit.texts import digest_texts
from bigtrain.data.base import DataModule
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.originals import Originals

_VERSION = 1  # of what is compared; part of the cache key


class Seen(NamedTuple):
    """`found` of a split's `total` samples, texts or images, stand in another data set's train split."""

    split: str
    found: int
    total: int
    unit: str


def seen_before(data: DataModule, config: DataConfig, earlier: DataModule) -> list[Seen]:
    """Of val and test: which samples stand as a whole, but for case, space and punctuation, in `earlier`'s train split.

    Empty where the two can't be compared, the audit is off, or the best possible result is known.
    """
    if config.audit is Audit.off or not _comparable(data, earlier) or is_too_large(data) or is_too_large(earlier):
        return []
    names = [f"{_originals_key(one)} {one.spec.fingerprint}" for one in (data, earlier)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cache that can't be written the data module has warned
        root, key = cache_root(getattr(config, "cache_dir", None)), fingerprint_of(_VERSION, *names)
        kept = load_or_build(root, "seen", key, lambda: Prepared(_count(_digests(data), _digests(earlier)), {}))
    originals: Originals | None = getattr(data, "originals", None)
    unit = originals.unit if originals else data.spec.kind
    return [Seen(split, int(count), int(total), unit) for split, (count, total) in kept.meta.items()]


def _comparable(data: DataModule, earlier: DataModule) -> bool:
    specs = (data.spec, earlier.spec)
    if any(spec.optimal_loss is not None or spec.optimal_accuracy is not None for spec in specs):
        return False
    texts = [_originals_key(one) != "" for one in (data, earlier)]
    same = specs[0].kind == specs[1].kind and specs[0].input_shape == specs[1].input_shape
    return all(texts) or (not any(texts) and specs[0].input_shape is not None and same)


def _originals_key(data: DataModule) -> str:
    originals: Originals | None = getattr(data, "originals", None)
    return originals.key if originals else ""


def _digests(data: DataModule) -> Table:
    originals: Originals | None = getattr(data, "originals", None)
    return digest_texts(originals.open()) if originals else digest_samples(data)


def _count(table: Table, earlier: Table) -> dict[str, list[int]]:
    """Split → count, total."""
    known = earlier["train"].gist if "train" in earlier else np.empty(0, dtype=np.uint64)
    return {
        split: [int(np.isin(table[split].gist, known).sum()), len(table[split])]
        for split in ("val", "test")
        if split in table
    }
