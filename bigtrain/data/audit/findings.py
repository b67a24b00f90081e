"""What an audit says: its checks, each with a verdict, and the samples that they are about. JSON in and out.

How samples are compared: `data/audit/duplicates.py` and the modules beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VERDICTS = ("note", "ok", "warn", "fail")  # from the harmless to the worst; a note is no judgement
KINDS = ("exact", "normalised", "near", "repeat", "conflict")
LEAKS = ("duplicates", "normalised", "near-duplicates")  # the checks of the first three kinds

LEAKED = "leaked in all"  # by any way; what decides whether the data passes

_ARE_FOUND = {
    "duplicates": "stand in {0} too",
    "normalised": "stand in {0} too, but for case, space and punctuation",
    "near-duplicates": "are nearly the same as one of {0}",
    "repeats": "repeat another one",
    LEAKED: "stand in {0}",
    "label conflicts": "have another label elsewhere",
    "cut": "are cut",
}


class Offence(NamedTuple):
    """One sample of `split` and the other sample that it is compared with; ids count from 0 within a split."""

    kind: str
    split: str
    sample: int
    other_split: str
    other_sample: int
    similarity: float = 1.0


@dataclass(frozen=True)
class Check:
    """`count` of `total` samples are concerned; `splits`: one, or the two that are compared, the tested one last."""

    name: str
    splits: tuple[str, ...]
    count: int
    total: int
    verdict: str
    detail: str = ""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.count / self.total if self.total else 0.0

    @property
    def where(self) -> str:
        """For a table."""
        return " → ".join(self.splits)

    def sentence(self, unit: str) -> str:
        """For a log."""
        if self.name not in _ARE_FOUND:
            return f"{self.name}, {self.where}: {self.detail}"
        what = _ARE_FOUND[self.name].format(self.splits[0])
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.count:,} of {self.total:,} {unit} of {self.splits[-1]} {what}{detail}"


@dataclass(frozen=True)
class Report:
    """Of one data set. `examples`: a few offences of each kind in full, as in audit.jsonl; `skipped`: checks left out
    and why. `limit`: the share of an evaluation split that may be leaked before the verdict is `fail`.
    """

    unit: str  # "texts", "images"
    sizes: dict[str, int]
    limit: float
    checks: tuple[Check, ...]
    examples: tuple[dict[str, Any], ...] = ()
    skipped: tuple[str, ...] = ()
    offences: tuple[Offence, ...] = field(default=(), compare=False)  # all of them; not part of the JSON

    @property
    def verdict(self) -> str:
        """The worst of all."""
        return max((check.verdict for check in self.checks), key=VERDICTS.index, default="ok")

    def worries(self) -> Iterator[Check]:
        """The checks that warn or fail."""
        return (check for check in self.checks if check.verdict in ("warn", "fail"))

    def in_short(self) -> list[str]:
        """Sentences about what warns or fails; samples leaked from train are told of once, by whichever way."""
        ways = [check for check in self.checks if check.name in LEAKS and check.splits[0] == "train"]
        return [check.sentence(self.unit) for check in self.worries() if check not in ways]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        document = {name: value for name, value in vars(self).items() if name not in ("offences", "checks")}
        return {"verdict": self.verdict, **document, "checks": [dataclasses.asdict(check) for check in self.checks]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Report:
        """Inverse of `to_json`, but for the offences."""
        checks = tuple(Check(**{**check, "splits": tuple(check["splits"])}) for check in document["checks"])
        lists = {name: tuple(document[name]) for name in ("examples", "skipped")}
        return cls(document["unit"], document["sizes"], document["limit"], checks, **lists)
