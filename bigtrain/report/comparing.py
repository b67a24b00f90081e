"""Which metrics of two runs can be compared, and in which settings the runs differ. Pure functions.

Metrics are comparable only for the same task, on the same samples, in the same unit. A loss per token depends on the
tokenizer; bits per byte do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bigtrain.config.kinds import TaskConfig
from bigtrain.registry import TASKS
from bigtrain.report.runs import RunRecord

_WITHOUT_EFFECT = ("name", "tags", "output_dir", "resume", "tracking.", "extra")
_OF_NO_EFFECT_ON_VALIDATION = ("data.cache_dir", "data.audit", "data.augment.")
_TOKENS = ("data.tokenizer", "data.vocab_size")
_WINDOWS = ("data.sequence_length",)
_TRAINING = ("data.train_path",)
_SAMPLES = ("trainer.limit_samples", "trainer.overfit")
_SAME_TEXT = 0.05  # two counts of the same text's bytes, which leave out the end of it, differ by less


@dataclass(frozen=True)
class Comparability:
    """Whether all metrics are comparable, else the `metrics` that are, without a split; `sentence`: why not all."""

    everything: bool
    metrics: tuple[str, ...] = ()
    sentence: str = ""

    def allows(self, tag: str) -> bool:
        """Whether a metric such as "val/loss" can be compared."""
        return self.everything or tag.rpartition("/")[2] in self.metrics


def comparability(one: RunRecord, other: RunRecord) -> Comparability:
    """The comparability of the validation and test metrics of two runs."""
    tasks = [run.kinds.get("task", "") for run in (one, other)]
    if tasks[0] != tasks[1]:
        return _nothing(f"their tasks are {tasks[0]} and {tasks[1]}")
    samples = [key for key in _SAMPLES if one.settings.get(key) != other.settings.get(key)]
    if samples:
        return _nothing(f"they are measured on other samples ({', '.join(samples)})")
    if one.data is None or other.data is None:
        changed = data_differences(one, other)
        if changed or one.kinds.get("data") != other.kinds.get("data"):
            return _nothing(
                f"their data differs ({', '.join(changed) or 'data'}), and one has no checkpoint to tell more"
            )
        return Comparability(True)
    if one.data.get("fingerprint") == other.data.get("fingerprint"):
        return Comparability(True)
    # The task of a plug-in that is not on is taken to be like most.
    return _other_data(one, other, TASKS[tasks[0]].config_class if tasks[0] in TASKS else TaskConfig)


def data_differences(one: RunRecord, other: RunRecord) -> list[str]:
    """Keys of data settings that differ and may change the validation samples."""
    keys = sorted({*one.settings, *other.settings})
    keys = [key for key in keys if key.startswith("data.") and not key.startswith(_OF_NO_EFFECT_ON_VALIDATION)]
    return [key for key in keys if one.settings.get(key) != other.settings.get(key)]


def differing_settings(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Key → its value in each run, None where a run has no such setting; of keys that are not the same in all."""
    groups = dict.fromkeys(
        group for run in runs for group in run.choices if group in run.kinds or group == "experiment"
    )
    found = {group: [run.choices.get(group) for run in runs] for group in groups}
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(_WITHOUT_EFFECT))
    found |= {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values[1:])}


def _other_data(one: RunRecord, other: RunRecord, task: type[TaskConfig]) -> Comparability:
    kinds = [run.kinds.get("data", "") for run in (one, other)]
    if kinds[0] != kinds[1]:
        names = [run.choices.get("data", kind) for run, kind in zip((one, other), kinds, strict=True)]
        return _nothing(f"their data is {names[0]} and {names[1]}")
    changed = data_differences(one, other)
    harmless = (*_WINDOWS, *_TRAINING, *(() if one.tokenizer is None else _TOKENS))  # else vocab_size makes the data
    beyond = [key for key in changed if not key.startswith(harmless)]
    if beyond:
        return _nothing(f"they are measured on other data or another split ({', '.join(beyond)})")
    other_tokens = one.tokenizer != other.tokenizer
    if not changed and not other_tokens:
        return _nothing("the files behind the same data settings have changed between them")
    if not task.per_token:
        return Comparability(True)
    if not _same_text(one, other):
        return _nothing("they are measured on other texts, or on other parts of one")
    if other_tokens:
        *others, last = task.of_any_tokenizer.values() or ("no metric",)
        can = f"{', '.join(others)} and {last}" if others else last
        why = "their tokenizers differ: loss and perplexity are per token and can't be compared"
        return Comparability(False, tuple(task.of_any_tokenizer), f"{why}; {can} can")
    return Comparability(True)


def _same_text(one: RunRecord, other: RunRecord) -> bool:
    """Whether the validation texts have about the same number of bytes, where both are known."""
    sizes = []
    for run in (one, other):
        facts = run.data or {}
        if facts.get("kind") != "text":
            return True
        try:
            tokens = facts["sizes"]["val"] * facts["sequence_length"]
            sizes.append(float(tokens * facts["bytes_per_token"]["val"]))
        except (KeyError, TypeError):
            return True
    return abs(sizes[0] - sizes[1]) <= _SAME_TEXT * max(sizes)


def _nothing(why: str) -> Comparability:
    return Comparability(False, (), f"{why}: no metric can be compared")
