"""`bigtrain pipeline=…` through the command: reuse, kills, rounds, the report, and mistakes."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigtrain.cli import main
from tests.commands.conftest import Shell
from tests.pipeline.small import SMALL, write_pipeline

ROUNDS = """iterate:
  until: {metric: finetune/val/accuracy, target: 0.2}
  max_rounds: 3
  continue: [pretrain]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the small pipeline in conf/, the current one."""
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path / "conf", "small", SMALL)
    return tmp_path


def run(*words: str, code: int = 0) -> None:
    assert main(["-cd", "conf", "pipeline=small", *words]) == code


def stages(folder: Path, name: str = "small") -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in sorted(folder.glob(f"outputs/{name}/stages/*"))}


def weights(folder: Path, name: str = "small") -> dict[str, bytes]:
    """Of every stage's last checkpoint."""
    return {
        path.name: max(path.glob("checkpoints/step-*/model.safetensors")).read_bytes()
        for path in folder.glob(f"outputs/{name}/stages/*")
        if (path / "checkpoints").is_dir()
    }


def test_a_pipeline_is_run_once_and_what_is_changed_alone_is_run_again(here, capsys):
    run("--dry-run")
    assert "to run" in capsys.readouterr().out and not (here / "outputs").exists()
    run()
    said = capsys.readouterr().out
    assert "stage 1: pretrain (run)" in said and "stage 4: measure on test (run)" in said
    assert "from scratch" in said and "cost: " in said
    first = stages(here)
    assert set(first) == {"pretrain", "finetune", "finetune_control", "measure"}
    assert json.loads((first["finetune"] / "status.json").read_text())["state"] == "finished"

    run()
    said = capsys.readouterr().out
    assert said.count("(reused)") == 4 and "(run)" not in said
    assert stages(here) == first

    run("pipeline.stages.finetune.optimizer.learning_rate=3e-3")
    said = capsys.readouterr().out
    assert "stage 1: pretrain (reused)" in said
    for number, label in ((2, "finetune"), (3, "finetune_control"), (4, "measure on test")):
        assert f"stage {number}: {label} (run)" in said
    assert sorted(path.name.rpartition("-")[0] for path in here.glob("outputs/small/stages/*")) == [
        *["finetune", "finetune"],
        *["finetune_control", "finetune_control"],
        *["measure", "measure"],
        "pretrain",
    ]

    run("trainer.log_every=5", "tracking.samples=false")  # what does not change a run
    assert capsys.readouterr().out.count("(reused)") == 4

    run("seed=2", "--dry-run")
    assert "done" not in capsys.readouterr().out
    run("--dry-run")
    assert capsys.readouterr().out.count("done") == 4


def test_the_finetuned_stage_starts_from_the_pretrained_weights(here):
    run("pipeline.stages.finetune.optimizer.learning_rate=1e-30", "trainer.max_duration=1step")
    found = stages(here)
    start, end, scratch = (weights(here)[found[name].name] for name in ("pretrain", "finetune", "finetune_control"))
    assert start == end != scratch


def test_report_and_tensorboard(here):
    run()
    (record,) = here.glob("outputs/small/pipelines/*")
    markdown, page = (record / "report.md").read_text(), (record / "report.html").read_text()
    for text in (markdown, page):
        assert "pretrained weights gained" in text and "finetune" in text and "scratch" in text
        assert "pretrain: " in text and "cost: " in text
    assert 'src="data:image/png;base64,' in page and "<script" not in page
    events = EventAccumulator(str(record / "tensorboard")).Reload()
    assert {"pipeline/finetune/test/accuracy", "pipeline/gain/finetune/test/accuracy"} <= set(events.Tags()["scalars"])
    status = json.loads((record / "status.json").read_text())
    assert status["state"] == "finished" and any("gained" in sentence for sentence in status["verdict"])


def test_rounds_end_at_the_target_or_when_patience_runs_out(here, capsys):
    write_pipeline(here / "conf", "small", SMALL + ROUNDS)
    run()
    said = capsys.readouterr().out
    assert "the target is reached" in said and "round 2, stage" not in said
    run("pipeline.iterate.until.target=2", "pipeline.iterate.patience=1", "pipeline.stages.pretrain.seed=5")
    said = capsys.readouterr().out
    assert "round 2, stage 1: pretrain (run)" in said
    assert ("patience: " in said) != ("the target is not reached" in said)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_places_it_ends_with_the_same_bytes(tmp_path, kills):
    write_pipeline(tmp_path / "conf", "small", SMALL)
    shell = Shell(tmp_path)
    words = ("-cd", "conf", "pipeline=small", "trainer.max_duration=80step", "trainer.log_every=1")
    started = time.monotonic()
    shell.run(*words, "name=whole")
    seconds = time.monotonic() - started
    draw = random.Random(0)
    for _ in range(kills):
        process = shell.start(*words, "name=killed")
        time.sleep(seconds * draw.uniform(0.4, 0.9))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    shell.run(*words, "name=killed")
    assert weights(tmp_path, "killed") == weights(tmp_path, "whole") != {}


def test_a_stop_saves_and_the_same_command_goes_on(tmp_path):
    write_pipeline(tmp_path / "conf", "small", SMALL)
    shell = Shell(tmp_path)
    words = ("-cd", "conf", "pipeline=small", "trainer.max_duration=5000step", "trainer.log_every=1")
    process = shell.start(*words)
    while (
        not (found := list(tmp_path.glob("outputs/small/stages/pretrain-*/metrics.jsonl")))
        or not found[0].stat().st_size
    ):
        time.sleep(0.05)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "the same command goes on with it: bigtrain -cd conf pipeline=small" in out
    again = shell.run(*words, "--dry-run")
    assert "goes on" in again.stdout


def test_mistakes(here, capsys, monkeypatch):
    for words, said in (
        (["pipeline=smal"], "did you mean pipeline=small"),
        (["-m", "pipeline=small"], "can't go together"),
        (["pipeline=small", "--info"], "can't go together"),
        (["pipeline.iterate.max_rounds=2"], "changes no pipeline"),
        (["--dry-run"], "--dry-run goes with pipeline="),
    ):
        assert main(["-cd", "conf", *words]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(code=2)
    assert "starts its ranks" in capsys.readouterr().err
    assert not (here / "outputs").exists()


def test_its_stages_can_be_shown(here, capsys):
    run("--cfg", "job", "-p", "optimizer")
    said = capsys.readouterr().out
    assert "# stage pretrain" in said and "# stage finetune" in said and "learning_rate: 0.01" in said
    run("--help")
    assert "bigtrain train: train a model" in capsys.readouterr().out


SEEN = """overrides:
  - trainer.gpus=0
  - trainer.max_duration=4step
  - trainer.batch_size=8
  - model.num_layers=1
  - data.cache_dir=cache
stages:
  pretrain:
    overrides: [model=bert_tiny, data=text_corpus, data.train_path=read.jsonl,
                data.val_path=later.jsonl, data.tokenizer=byte]
  finetune:
    init_from: pretrain
    control: false
    overrides: [model=bert_tiny, task=classification, data=text_classification, data.train_path=train.csv,
                data.val_path=val.csv, data.test_path=test.csv, data.sequence_length=128]
"""


def test_texts_that_an_earlier_stage_has_read_are_told_of_or_refused(here, capfd):
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefghijklmnop", k=50)) for _ in range(90)]
    for name, part in {"train": texts[:60], "val": texts[60:75], "test": texts[75:]}.items():
        rows = [f"{text},{'xy'[number % 2]}" for number, text in enumerate(part)]
        (here / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (here / "read.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts[70:] * 4))
    (here / "later.jsonl").write_text(json.dumps({"text": " ".join(texts[:60])}))
    write_pipeline(here / "conf", "small", SEEN)
    said = "of 15 texts of {} stand in what pretrain was trained on"
    run("pipeline.stages.finetune.data.audit=fail", code=3)
    assert f"stage finetune: 5 {said.format('val')}" in capfd.readouterr().err
    run()
    captured = capfd.readouterr()
    for number, split in ((5, "val"), (15, "test")):
        assert f"warning: {number} {said.format(split)}" in captured.err
        assert f"finetune, data: {number} {said.format(split)}" in captured.out
    run()
    assert f"finetune, data: 15 {said.format('test')}" in capfd.readouterr().out
