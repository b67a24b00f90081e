"""The audit itself: which checks, in which order, and what their verdicts follow from.

How samples are read and compared: `texts.py`, `arrays.py` and `duplicates.py` beside it. The commands show and write
the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bigtrain.config.kinds import DataConfig
from bigtrain.data.audit import arrays
from bigtrain.data.audit.duplicates import (
    Table,
    compared_splits,
    conflicting_samples,
    repeated_samples,
    shared_samples,
)
from bigtrain.data.audit.findings import KINDS, LEAKED, LEAKS, Check, Offence, Report
from bigtrain.data.audit.texts import Pass, digest_texts, near_duplicates
from bigtrain.data.base import DataModule
from bigtrain.data.originals import Originals

EXAMPLES = 3  # of each kind, in the report
_SHOWN = 300  # characters of a text
_MANY_REPEATS = 0.1  # of train
_MANY_CUT = 0.05  # of a split
_SHIFT, _CHANCE = 0.05, 1e-3  # a shift of labels that is both larger and less likely than these is worth a warning


@dataclass
class _Source:
    """What is audited: `read` where it is text, else the samples that the data module gathers."""

    data: DataModule
    originals: Originals | None
    read: Pass | None

    @property
    def unit(self) -> str:
        return self.originals.unit if self.originals else self.data.spec.kind

    def digests(self) -> Table:
        return digest_texts(self.read) if self.read else arrays.digest_samples(self.data)

    def near(self, table: Table, known: list[Offence], threshold: float) -> list[Offence]:
        if self.read:
            return near_duplicates(self.read, table, known, threshold)
        return arrays.near_images(self.data, table, known)

    def no_near(self, table: Table) -> str:
        """Why near-duplicates are not looked for; "" where they are."""
        if self.read:
            return ""
        if self.data.spec.kind != "images":
            return f"near-duplicates of {self.unit} are not looked for"
        pairs = sum(len(table[first]) * len(table[later]) for first, later in compared_splits(table))
        too_many = f"near-duplicates are not looked for among {pairs:.0e} pairs of images"
        return too_many if pairs > arrays.MOST_PAIRS else ""


def audit(data: DataModule, config: DataConfig, *, near: bool) -> Report:
    """Every check; near-duplicates only if asked for: they take ten times as long as the rest."""
    originals = data.originals
    source = _Source(data, originals, originals.open() if originals else None)
    table = source.digests()
    offences = shared_samples(table)
    skipped = source.no_near(table) if near else "near-duplicates: bigtrain check-data looks for them"
    if near and not skipped:
        offences += source.near(table, offences, config.audit_similarity)
    leaks = list(offences)
    offences += repeated_samples(table["train"], "train") if "train" in table else []
    offences += conflicting_samples(table)
    checks = [
        *_checks_of_splits(data, table),
        *_checks_of_leaks(table, leaks, config.audit_limit, near and not skipped),
        *_checks_of_samples(table, offences),
        *_checks_of_labels(data, table),
        *_checks_of_tokens(data, source.originals),
    ]
    sizes = {split: len(digests) for split, digests in table.items()}
    some = [offence for kind in KINDS for offence in [one for one in offences if one.kind == kind][:EXAMPLES]]
    return Report(
        source.unit,
        sizes,
        config.audit_limit,
        tuple(checks),
        tuple(rows_of(data, some, source.read)),
        (skipped,) if skipped else (),
        tuple(offences),
    )


def rows_of(data: DataModule, offences: Sequence[Offence], read: Pass | None = None) -> Iterator[dict[str, Any]]:
    """Each offence with the texts, places and labels of its samples, in JSON's types: the lines of audit.jsonl."""
    originals = data.originals
    read = read or (originals.open() if originals and offences else None)
    wanted = {pair for one in offences for pair in ((one.split, one.sample), (one.other_split, one.other_sample))}
    facts = _facts_of_texts(read, wanted) if read else {pair: _facts_of_sample(data, *pair) for pair in wanted}
    for one in offences:
        mine, other = facts[one.split, one.sample], facts[one.other_split, one.other_sample]
        others = {f"other_{name}": value for name, value in other.items()}
        yield {**one._asdict(), **mine, **others}


def _facts_of_texts(read: Pass, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    facts, counts = {}, dict.fromkeys({split for split, _ in wanted}, 0)
    for split, text, label, place in read() if wanted else ():
        if split in counts:
            if (split, counts[split]) in wanted:
                labelled = {} if label is None else {"label": label}
                facts[split, counts[split]] = {"place": place, "text": text[:_SHOWN], **labelled}
            counts[split] += 1
    return facts


def _facts_of_sample(data: DataModule, split: str, sample: int) -> dict[str, Any]:
    label = arrays.label_of(data, split, sample)
    return {} if label is None else {"label": label}


def _checks_of_splits(data: DataModule, table: Table) -> Iterator[Check]:
    for split in data.spec.sizes:
        if split not in table:
            yield Check("empty", (split,), 0, 0, "warn", "nothing to compare")


def _checks_of_leaks(table: Table, leaks: list[Offence], limit: float, near: bool) -> Iterator[Check]:
    for first, later in compared_splits(table):
        here = [leak for leak in leaks if (leak.other_split, leak.split) == (first, later)]
        total = len(table[later])
        normalises = table[later].gist is not table[later].exact
        for kind, name in zip(KINDS, LEAKS, strict=False):
            if kind == "normalised" and not normalises:
                continue
            if near or kind != "near":
                count = sum(leak.kind == kind for leak in here)
                yield Check(name, (first, later), count, total, "warn" if count else "ok")
        if first == "train":
            share = len({leak.sample for leak in here}) / total
            verdict = "fail" if share > limit else "warn" if share else "ok"
            yield Check(LEAKED, (first, later), round(share * total), total, verdict, f"limit {limit:.2%}")


def _checks_of_samples(table: Table, offences: Iterable[Offence]) -> Iterator[Check]:
    counts = {(kind, split): 0 for kind in ("repeat", "conflict") for split in table}
    for one in offences:
        if (one.kind, one.split) in counts:
            counts[one.kind, one.split] += 1
    if "train" in table:
        count, total = counts["repeat", "train"], len(table["train"])
        yield Check("repeats", ("train",), count, total, _graded(count / total, _MANY_REPEATS))
    for split, digests in table.items():
        if digests.labels is not None:
            count = counts["conflict", split]
            yield Check("label conflicts", (split,), count, len(digests), "warn" if count else "ok")


def _checks_of_labels(data: DataModule, table: Table) -> Iterator[Check]:
    classes = data.spec.num_classes
    counts = {
        split: np.bincount(digests.labels, minlength=classes or 0)
        for split, digests in table.items()
        if digests.labels is not None
    }
    for split, of_classes in counts.items():
        present, total = int(np.count_nonzero(of_classes)), len(of_classes)
        largest = of_classes.max() / of_classes.sum()
        detail = f"largest {largest:.1%}"
        yield Check("classes", (split,), present, total, "warn" if present < min(2, total) else "ok", detail)
        if split != "train" and "train" in counts:
            distance, chance = label_shift(counts["train"], of_classes)
            shifted = distance > _SHIFT and chance < _CHANCE
            samples = int(of_classes.sum())
            verdict = "warn" if shifted else "ok"
            yield Check(
                "label shift", ("train", split), round(distance * samples), samples, verdict, f"p = {chance:.2g}"
            )


def label_shift(train: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How far apart two splits' counts (C,) of classes are: their total variation distance, between 0 and 1, and the
    probability of one as large by chance, by Pearson's test of homogeneity.
    """
    together = train + other
    counts = np.stack([train, other])[:, together > 0].astype(np.float64)
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    freedom = counts.shape[1] - 1
    if not freedom:
        return distance, 1.0
    statistic = float((np.square(counts - expected) / expected).sum())
    half = torch.tensor([freedom, statistic], dtype=torch.float64) / 2
    return distance, float(torch.special.gammaincc(half[0], half[1]))


def _checks_of_tokens(data: DataModule, originals: Originals | None) -> Iterator[Check]:
    if originals is None:
        return
    for split, count in originals.cut.items():
        total = data.spec.sizes[split]
        verdict = _graded(count / total, _MANY_CUT)
        yield Check("cut", (split,), count, total, verdict, f"to {data.spec.sequence_length} tokens")
    yield Check("tokenizer", ("train",), 0, 0, "note", originals.tokenizer)


def _graded(share: float, many: float) -> str:
    """A share that is no harm while it is small."""
    return "warn" if share > many else "note" if share else "ok"
