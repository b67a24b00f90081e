"""`bigtrain train` through the installed command: what a run leaves, and how it fails."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import time

import pytest
import yaml

from bigtrain.tracking.jsonl import read_rows

from .conftest import GLYPHS, TINY


def test_a_run_leaves_what_the_readme_says(trained):
    (run,) = trained.runs()
    assert run.parent.name == "transformer-synthetic-markov"
    present = {path.name for path in run.iterdir()}
    assert {
        "config.yaml",
        "overrides.txt",
        "status.json",
        "metrics.jsonl",
        "train.log",
        "checkpoints",
        "tensorboard",
    } <= present
    assert stat.S_IMODE((run / "config.yaml").stat().st_mode) == 0o600
    assert "model.hidden_size=16" in (run / "overrides.txt").read_text()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["hidden_size"] == 16
    assert config["_bigtrain_"]["kinds"]["model"] == "transformer"
    status = trained.status(run)
    assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 20)
    assert {"val/loss", "test/loss"} <= set(status["metrics"])
    assert read_rows(run / "metrics.jsonl")[-1]["step"] == 20


def test_the_same_words_give_the_same_bytes(shell):
    for _ in range(2):
        shell.run(*TINY)
    first, second = (run / "checkpoints/step-00000020/model.safetensors" for run in shell.runs())
    assert first.read_bytes() == second.read_bytes()


def test_the_cnn_of_the_readme(shell):
    words = [
        "optimizer=sgd",
        "optimizer.learning_rate=0.05",
        "trainer.max_duration=2epoch",
        "trainer.batch_size=20",
    ]
    done = shell.run(*GLYPHS, *words)
    (run,) = shell.runs()
    assert shell.status(run)["step"] == 20
    assert "macro f1" in done.stdout
    assert "tensorboard --logdir" in done.stdout and "bigtrain eval" not in done.stdout  # all is measured


def test_a_gpu_that_is_not_there_is_a_sentence(shell):
    done = shell.run("model=transformer", "trainer.gpus=1", code=5)
    assert done.stderr.startswith("error[DEVICE-GPU]: trainer.gpus=1, but no GPU is visible")
    assert "trainer.gpus=0" in done.stderr
    assert list(shell.folder.iterdir()) == []


def test_missing_data_is_a_sentence_and_leaves_nothing(shell):
    done = shell.run("data=text_corpus", "data.path=nowhere.txt", code=3)
    assert "nowhere.txt" in done.stderr
    assert list(shell.folder.iterdir()) == []


def test_an_output_directory_that_cannot_be_made_is_a_sentence(shell):
    (shell.folder / "outputs").write_text("a file")
    done = shell.run(*TINY, code=5)
    assert "outputs" in done.stderr
    assert "output_dir" in done.stderr


def test_two_runs_never_share_a_directory(shell):
    shell.run(*TINY, "trainer.max_duration=4step")
    (run,) = shell.runs()
    facts = json.loads((run / "status.json").read_text()) | {"state": "preempted"}
    (run / "status.json").write_text(json.dumps(facts))
    descriptor = os.open(run / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    start = time.monotonic()
    done = shell.run(f"resume={run}", code=5)
    assert "is in use" in done.stderr
    assert time.monotonic() - start < 20
    os.close(descriptor)


def test_a_nan_ends_with_code_6_and_says_where(shell):
    done = shell.run(*TINY, "optimizer.learning_rate=1e30", "trainer.clip_norm=null", "model.qk_norm=false", code=6)
    (run,) = shell.runs()
    status = shell.status(run)
    assert status["exit_code"] == 6
    step = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert f"at step {step}" in done.stderr
    assert "training samples" in done.stderr


def test_a_time_limit_saves_and_asks_to_be_run_again(shell):
    done = shell.run(*TINY, "trainer.max_duration=1000000step", "scheduler=constant", "trainer.time_limit=1s", code=75)
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "preempted"
    assert f"bigtrain resume={run.relative_to(shell.folder)}" in done.stdout


@pytest.mark.parametrize(
    "words",
    [["trainer.max_duration=3epoch"], ["trainer.max_duration=2ktok"], ["trainer.max_duration=50sample"]],
)
def test_every_unit_of_duration(shell, words):
    shell.run(*TINY, "data.train_tokens=2000", *words, "trainer.eval_every=1epoch", "trainer.save_every=10s")
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "finished"


def test_init_from_takes_the_backbone_and_says_so(shell):
    shell.run(*TINY)
    (first,) = shell.runs()
    done = shell.run(*TINY, f"init_from={first.relative_to(shell.folder)}", "name=second", "trainer.max_duration=2step")
    assert "tensors loaded from" in done.stdout
    second = next(run for run in shell.runs() if run.parent.name == "second")
    assert shell.status(second)["metrics"]["val/loss"] < shell.rows(first)[0]["train/loss"]


def test_a_model_that_is_no_folder_is_told_how_to_get_one(shell):
    done = shell.run(*TINY, "init_from=google/some-model", code=4)
    assert "there is no such folder" in done.stderr
    assert "hf download google/some-model --local-dir some-model" in done.stderr
    assert not shell.runs()


def test_a_checkpoint_of_another_shape_is_refused(shell):
    shell.run(*TINY, "trainer.max_duration=2step")
    done = shell.run(*TINY, "init_from=best", "model.hidden_size=32", code=4)
    assert "is of another model" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_without_room_for_a_checkpoint_ends_the_run_before_it_trains(shell):
    small = shell.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        done = shell.run(*TINY, "model.hidden_size=64", f"output_dir={small}", code=5)
        assert "no space" in done.stderr
        assert "step 10" not in done.stdout
        assert not list(small.rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_training_on_a_cpu_does_not_import_the_compiler(shell):
    """It takes 1.3 s of every start."""
    program = (
        "import sys\nfrom bigtrain.cli import main\n"
        f"code = main({[*TINY, 'trainer.gpus=0', 'trainer.max_duration=2step']!r})\n"
        "print(code, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=shell.folder, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
