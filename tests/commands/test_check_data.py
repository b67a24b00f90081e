"""`bigtrain check-data`, and the audit before a training, through the command."""

import json

import pytest

from tests.data.text.test_text_classification import write

from .conftest import MODEL, Shell

WORDS = ["data=text_classification", "data.path=data", "data.cache_dir=cache"]
TRAINING = [
    *WORDS,
    *MODEL,
    "task=classification",
    "trainer.max_duration=1step",
    "trainer.gpus=0",
    "tracking.report=false",
]


@pytest.fixture
def shell(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/train.tsv", [("a good film", 1), ("a bad film", 0)] * 4)
    write(tmp_path / "data/dev.tsv", [("A good film.", 1), ("boring", 0)])
    return Shell(tmp_path)


def test_the_verdict_decides_the_exit_code_and_the_samples_are_listed(shell):
    said = shell.run("check-data", *WORDS, code=3).stdout
    assert "verdict: fail" in said
    assert "data/dev.tsv:2" in said
    (folder,) = shell.folder.glob("outputs/text_classification/audits/*")
    rows = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["normalised"] + ["repeat"] * 6
    assert json.loads((folder / "audit.json").read_text())["verdict"] == "fail"
    assert "verdict: warn" in shell.run("check-data", *WORDS, "data.audit_limit=0.5").stdout
    assert "leave it out" in shell.run("check-data", *WORDS, "trainer.overfit=true", code=2).stderr


def test_a_training_warns_or_stops_and_keeps_what_was_found(shell):
    done = shell.run(*TRAINING)
    assert "data audit: 1 of 2 texts of val stand in train (limit 1.00%)" in done.stdout + done.stderr
    (run,) = shell.runs()
    assert json.loads((run / "audit.json").read_text())["verdict"] == "fail"
    refused = shell.run(*TRAINING, "data.audit=fail", code=3).stderr
    assert "error[DATA-AUDIT]" in refused
    assert "1 of 2 texts of val stand in train" in refused
    silent = shell.run(*TRAINING, "data.audit=off")
    assert "data audit" not in silent.stdout + silent.stderr
    assert len(shell.runs()) == 2  # the refused one left nothing
