"""Real kills of the real command, and going on to the same bytes."""

import random
import re
import signal
import time

import pytest

from bigtrain.storage.checkpoint import verify

from .conftest import GLYPHS, TINY, Shell

LONG = [
    "trainer.max_duration=120step",
    "trainer.eval_every=30step",
    "trainer.save_every=7step",
    "trainer.log_every=3",
    "model.dropout=0.2",
]


def final_bytes(run, step=120):
    folder = run / f"checkpoints/step-{step:08d}"
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def kill_after_rows(shell, process, count, number):
    """Sends the signal once the newest run has logged `count` rows; returns the exit code."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        runs = [run for run in shell.runs() if run.parent.name == "killed" and (run / "metrics.jsonl").exists()]
        if runs and len((runs[-1] / "metrics.jsonl").read_text().splitlines()) >= count:
            process.send_signal(number)
            break
        time.sleep(0.005)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize(
    ("words", "installed"),
    [
        ([*TINY, *LONG], True),
        ([*GLYPHS, "trainer.gpus=0", "trainer.batch_size=20", *LONG, "model.batch_norm=true"], False),
    ],
)
def test_killed_and_terminated_the_bytes_are_the_same(tmp_path, words, installed):
    shell = Shell(tmp_path, installed=installed)
    shell.run(*words, "name=whole")
    whole = shell.runs()[0]
    draw = random.Random(str(words))
    process = shell.start(*words, "name=killed")
    codes = [kill_after_rows(shell, process, draw.randint(1, 8), signal.SIGKILL)]
    killed = next(run for run in shell.runs() if run.parent.name == "killed")
    for number in (signal.SIGTERM, signal.SIGKILL):
        rows = len(shell.rows(killed)) if killed.joinpath("metrics.jsonl").exists() else 0
        process = shell.start(f"resume={killed}")
        codes.append(kill_after_rows(shell, process, rows + draw.randint(1, 12), number))
    shell.run(f"resume={killed}")
    assert codes[0] == -signal.SIGKILL
    assert shell.status(killed)["state"] == "finished"
    assert final_bytes(killed) == final_bytes(whole)
    rows = shell.rows(killed)
    assert [row["step"] for row in rows] == [row["step"] for row in shell.rows(whole)]
    losses = [[row.get("train/loss"), row.get("val/loss")] for row in rows]
    assert losses == [[row.get("train/loss"), row.get("val/loss")] for row in shell.rows(whole)]


def kill_in_a_write(process, run_dir, seconds):
    """SIGKILL, so long after the next checkpoint was begun; returns whether it is still being written."""
    deadline = time.monotonic() + 120
    while not run_dir() and time.monotonic() < deadline:
        time.sleep(0.001)
    folder = run_dir() / "checkpoints"
    before = set(folder.glob(".tmp-[0-9]*"))
    while time.monotonic() < deadline and process.poll() is None:
        if set(folder.glob(".tmp-[0-9]*")) - before:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    return bool(set(folder.glob(".tmp-[0-9]*")) - before)


@pytest.mark.parametrize("kills", [2, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_while_a_checkpoint_is_written_the_bytes_are_the_same(shell, kills):
    """Training goes on meanwhile. What is written is lost; the checkpoint before it is gone on from."""
    steps = 3 * kills + 12
    words = [*TINY, f"trainer.max_duration={steps}step", "trainer.save_every=2step", "trainer.eval_every=9step"]
    words += ["trainer.log_every=1", "trainer.ema_decay=0.9", "model.dropout=0.2", "model.hidden_size=128"]
    shell.run(*words, "name=whole")
    (whole,) = shell.runs()
    draw = random.Random(kills)
    found = lambda: next((run for run in shell.runs() if run.parent.name == "killed"), None)  # noqa: E731
    inside, gone_on = 0, 0
    process = shell.start(*words, "name=killed")
    for _ in range(kills):
        inside += kill_in_a_write(process, found, draw.choice((0, draw.uniform(0, 0.02))))
        assert process.returncode == -signal.SIGKILL
        written = [int(path.name.split("-")[1]) for path in found().glob("checkpoints/.tmp-[0-9]*")]
        rows = (found() / "metrics.jsonl").read_text().count("train/loss")
        gone_on += bool(written) and rows > max(written)
        process = shell.start(f"resume={found()}")
    process.communicate(timeout=180)
    assert process.returncode == 0
    print(f"{kills} kills, {inside} of them inside a write, {gone_on} of these after further steps")  # seen with -rP
    assert inside >= kills / 4
    assert sorted(path.name for path in (found() / "checkpoints").iterdir()) == sorted(
        path.name for path in (whole / "checkpoints").iterdir()
    )
    for path in (whole / "checkpoints").glob("*/*.safetensors"):
        assert path.read_bytes() == (found() / "checkpoints" / path.parent.name / path.name).read_bytes()
    losses = [[row.get("train/loss"), row.get("val/loss")] for row in shell.rows(found())]
    assert losses == [[row.get("train/loss"), row.get("val/loss")] for row in shell.rows(whole)]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_exit_5(shell):
    """Something stands in the way of a later one; the write fails in the background."""
    process = shell.start(*TINY, "trainer.max_duration=100000step", "trainer.save_every=20step", "name=full")
    while not (found := list(shell.folder.glob("outputs/*/*/checkpoints/step-*"))) and process.poll() is None:
        time.sleep(0.005)
    for step in range(100, 2000, 20):
        path = found[0].parent / f"step-{step:08d}"
        path.exists() or path.symlink_to(shell.folder)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 5, output + errors
    step = int(re.search(r"DISK-WRITE.*step-(\d+)", errors, re.DOTALL)[1])
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "failed" and shell.status(run)["exit_code"] == 5
    assert verify(run / f"checkpoints/step-{step - 20:08d}")
    assert not list(run.glob("checkpoints/.tmp-*"))


def test_killed_inside_an_evaluation(shell):
    """A long evaluation, and a kill while it runs."""
    words = [
        *TINY,
        "data.eval_tokens=120000",
        "trainer.max_duration=12step",
        "trainer.eval_every=6step",
        "trainer.save_every=3step",
        "trainer.log_every=1",
        "model.dropout=0.2",
    ]
    shell.run(*words, "name=whole")
    process = shell.start(*words, "name=killed")
    assert kill_after_rows(shell, process, 6, signal.SIGKILL) == -signal.SIGKILL
    killed = next(run for run in shell.runs() if run.parent.name == "killed")
    assert not any("val/loss" in row for row in shell.rows(killed))
    shell.run(f"resume={killed}")
    whole = next(run for run in shell.runs() if run.parent.name == "whole")
    assert final_bytes(killed, 12) == final_bytes(whole, 12)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_save_and_exit_75(shell, number):
    process = shell.start(
        *TINY,
        "trainer.max_duration=100000step",
        "name=killed",
        "trainer.save_every=null",
        "trainer.eval_every=null",
    )
    assert kill_after_rows(shell, process, 2, number) == 75
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "preempted"
    step = shell.status(run)["step"]
    assert (run / f"checkpoints/step-{step:08d}/manifest.json").is_file()


def test_resuming_a_finished_run_exits_0_and_changes_nothing(trained):
    (run,) = trained.runs()
    before = sorted(path.name for path in run.rglob("*"))
    done = trained.run(f"resume={run}")
    assert "finished already" in done.stdout
    assert sorted(path.name for path in run.rglob("*")) == before


def test_resuming_takes_cadences_but_no_other_training(shell):
    process = shell.start(*TINY, "trainer.max_duration=300step", "name=killed", "trainer.log_every=1")
    kill_after_rows(shell, process, 5, signal.SIGTERM)
    (run,) = shell.runs()
    refused = shell.run("resume=latest", "optimizer.learning_rate=1", code=2)
    assert "optimizer.learning_rate" in refused.stderr
    done = shell.run("resume=latest", "trainer.log_every=100")
    assert "trainer.log_every" in done.stdout
    assert shell.status(run)["state"] == "finished"


def test_a_config_edited_by_hand_is_refused(shell):
    process = shell.start(*TINY, "trainer.max_duration=300step", "name=killed", "trainer.log_every=1")
    kill_after_rows(shell, process, 5, signal.SIGTERM)
    (run,) = shell.runs()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("learning_rate: 0.003", "learning_rate: 0.3"))
    refused = shell.run("resume=latest", code=2)
    assert "optimizer.learning_rate is 0.3 in the run's config.yaml" in refused.stderr


def test_a_finetune_killed_before_its_first_checkpoint_still_starts_from_the_weights(shell):
    shell.run(*TINY, "name=first")
    words = [
        *TINY,
        f"init_from={shell.runs()[0]}",
        "trainer.log_every=1",
        "trainer.save_every=null",
        "trainer.eval_every=null",
    ]
    shell.run(*words, "name=whole")
    process = shell.start(*words, "name=killed", "trainer.max_duration=20step")
    assert kill_after_rows(shell, process, 2, signal.SIGKILL) in (-signal.SIGKILL, 0)
    shell.run(f"resume={next(run for run in shell.runs() if run.parent.name == 'killed')}")
    whole, killed = (next(run for run in shell.runs() if run.parent.name == name) for name in ("whole", "killed"))
    assert final_bytes(killed, 20) == final_bytes(whole, 20)


def test_resuming_with_other_data_is_refused(shell):
    corpus = shell.folder / "corpus.txt"
    corpus.write_text("To be, or not to be, that is the question.\n" * 200)
    words = [*TINY, "data=text_corpus", "data.path=corpus.txt"]
    words = [word for word in words if not word.startswith(("data.vocab", "data.order", "data.train_t", "data.eval_t"))]
    process = shell.start(*words, "trainer.max_duration=1000step", "name=killed", "trainer.log_every=1")
    kill_after_rows(shell, process, 3, signal.SIGTERM)
    corpus.write_text("Whether 'tis nobler in the mind to suffer\n" * 200)
    done = shell.run("resume=latest", code=3)
    assert "is not what this run began with" in done.stderr


def test_nothing_to_resume_is_a_sentence(shell):
    assert "there is no run to go on with" in shell.run("resume=latest", code=4).stderr
    assert "there is no run to go on with" in shell.run("resume=nowhere", code=4).stderr


def test_a_damaged_newest_checkpoint_falls_back(shell):
    process = shell.start(*TINY, *LONG, "name=killed")
    kill_after_rows(shell, process, 12, signal.SIGKILL)
    (run,) = shell.runs()
    newest = max((run / "checkpoints").glob("step-*"))
    (newest / "model.safetensors").write_bytes(b"junk")
    done = shell.run(f"resume={run}")
    assert "set aside" in done.stderr
    shell.run(*TINY, *LONG, "name=whole")
    whole = next(one for one in shell.runs() if one.parent.name == "whole")
    assert final_bytes(run) == final_bytes(whole)


def test_only_damaged_checkpoints_are_exit_4(shell):
    process = shell.start(*TINY, *LONG, "name=killed")
    kill_after_rows(shell, process, 12, signal.SIGKILL)
    (run,) = shell.runs()
    for path in (run / "checkpoints").glob("step-*"):
        (path / "manifest.json").write_text("{}")
    assert "none is intact" in shell.run(f"resume={run}", code=4).stderr
