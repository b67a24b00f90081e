"""Which metrics are comparable where only the tokenizers differ: what the task's settings say of its metrics."""

from pathlib import Path

import pytest

from bigtrain.config.schema import register_parts
from bigtrain.report.comparing import comparability
from bigtrain.report.runs import RunRecord

register_parts()


def run_of(task, tokenizer):
    data = {"fingerprint": tokenizer, "kind": "sentences"}
    settings = {"data.tokenizer": tokenizer, "data.sequence_length": 64}
    return RunRecord(Path(tokenizer), settings, {"task": task, "data": "texts"}, {}, "", {}, [], data, tokenizer)


@pytest.mark.parametrize(
    ("task", "metrics", "words"),
    [
        ("language_modeling", ("bits_per_byte",), "; bits per byte can"),
        ("seq2seq", ("bleu", "chrf", "exact_match"), "; BLEU, chrF and exact matches can"),
        ("masked_lm", (), "; no metric can"),
        ("of_a_plugin_that_is_off", (), "; no metric can"),
    ],
)
def test_metrics_of_any_tokenizer_are_compared(task, metrics, words):
    found = comparability(run_of(task, "bpe"), run_of(task, "char"))
    assert (found.everything, found.metrics) == (False, metrics) and found.sentence.endswith(words)
    assert not found.allows("val/loss") and all(found.allows(f"val/{metric}") for metric in metrics)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_metrics_per_sample_do_not_depend_on_the_tokenizer(task):
    assert comparability(run_of(task, "bpe"), run_of(task, "char")).everything
