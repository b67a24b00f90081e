"""A run of the real command, seen through a real TensorBoard, on a terminal, and in its files."""

import json
import os
import pty
import shlex
import socket
import struct
import subprocess
import sys
import time
import urllib.request

import pytest

from .conftest import COMMAND, GLYPHS, TINY, Shell


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A TensorBoard on loopback over a language-model run and an image run; gives a function that asks it."""
    shell = Shell(tmp_path_factory.mktemp("served"))
    shell.run(*TINY)
    shell.run(*GLYPHS, "trainer.gpus=0", "trainer.max_duration=4step", "name=images")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", "outputs", "--host", "127.0.0.1", "--port", str(port)],
        cwd=shell.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(path, body=None):
        deadline = time.monotonic() + 90
        while True:
            try:
                data = None if body is None else json.dumps(body).encode()
                request = urllib.request.Request(f"http://127.0.0.1:{port}/data/plugin/{path}", data=data)
                request.add_header("Content-Type", "application/json")
                answer = json.load(urllib.request.urlopen(request, timeout=10))
                if answer or time.monotonic() > deadline:
                    return answer
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    yield ask
    process.terminate()
    process.wait(timeout=20)


def of_run(answer, name):
    (tags,) = [tags for run, tags in answer.items() if run.startswith(name)]
    return set(tags)


def test_scalars_are_served(served):
    tags = of_run(served("scalars/tags"), "transformer-synthetic-markov")
    assert {"train/loss", "val/loss", "val/perplexity", "optim/learning_rate", "data/optimal_loss"} <= tags
    assert {"perf/tokens_per_second", "perf/share_of_peak", "system/memory_bytes"} <= tags


def test_samples_and_config_are_served(served):
    assert {"config/text_summary", "val/sample/text_summary"} <= of_run(
        served("text/tags"), "transformer-synthetic-markov"
    )


def test_images_with_predictions_are_served(served):
    assert {"val/predictions", "val/confusion"} <= of_run(served("images/tags"), "images")


def test_hparams_are_served_once(served):
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"],
        "colParams": [],
        "sliceSize": 9,
    }
    groups = served("hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == 2
    settings = groups[0]["hparams"]
    assert {"model.hidden_size", "optimizer.learning_rate"} <= set(settings)


def test_the_optimum_is_drawn_beside_the_loss(served):
    layout = json.dumps(served("custom_scalars/layout"))
    assert "train/loss" in layout
    assert "data/optimal_loss" in layout


def test_a_terminal_gets_a_live_view(shell):
    """A real pseudo-terminal, 90 columns wide."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "90", "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [str(COMMAND), *TINY], cwd=shell.folder, stdout=child, stderr=child, stdin=child, env=environment
    )
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    for words in (
        "transformer on synthetic/markov",
        "20/20",
        "validation loss",
        "above optimum",
        "tok/s",
        "tensorboard --logdir",
    ):
        assert words in text, words


def test_a_pipe_gets_plain_lines(shell):
    done = shell.run(*TINY)
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("step 10/20") and "train/loss" in line for line in lines)
    (run,) = shell.runs()
    assert f"tensorboard --logdir {run.relative_to(shell.folder)}" in lines


def test_a_reader_that_goes_away_does_no_harm(shell):
    """bigtrain | head -1: the run finishes, and says so in status.json."""
    words = " ".join(f"'{word}'" for word in TINY)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{COMMAND} {words} | head -1"],
        cwd=shell.folder,
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("Loading PyTorch: ")]  # on a busy machine
    assert (done.returncode, told) == (0, [])
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "finished"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_output_that_cannot_be_written_is_a_sentence_and_the_run_is_finished(shell):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run([str(COMMAND), *TINY], cwd=shell.folder, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5
    assert "can't write the output" in done.stderr
    (run,) = shell.runs()
    assert shell.status(run)["state"] == "finished"


def test_every_command_that_a_run_recommends_works(shell):
    done = shell.run(*TINY)
    commands = [line for line in done.stdout.splitlines() if line.startswith("bigtrain ")]
    assert commands
    for command in commands:
        shell.run(*shlex.split(command)[1:])


def test_evaluating_twice_adds_no_points(shell):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shell.run(*TINY)
    (run,) = shell.runs()
    for _ in range(2):
        shell.run("eval", f"checkpoint={run}")
    for folder in (run / "tensorboard", run / "tensorboard/eval-test"):
        events = EventAccumulator(str(folder))
        events.Reload()
        assert len(events.Scalars("test/loss")) == 1


def test_images_of_many_channels_train_and_are_drawn(shell):
    """Two channels have no colours; the grid shows their mean."""
    import numpy as np

    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 2, 9, 7), dtype=np.uint8)
        header = struct.pack(">4B4I", 0, 0, 8, 4, *images.shape)
        (shell.folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(count) % 3).astype(np.uint8)
        header = struct.pack(">4BI", 0, 0, 8, 1, count)
        (shell.folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    done = shell.run("model=cnn", "data=idx", "data.path=.", "trainer.gpus=0", "trainer.max_duration=3step")
    assert "switched off" not in done.stdout


def test_paths_are_taken_as_typed(shell):
    """`~`, brackets, commas and spaces, which Hydra's grammar would refuse or read as something else."""
    odd = shell.folder / "my texts, [new]"
    odd.mkdir()
    (odd / "one.txt").write_text("To be, or not to be, that is the question.\n" * 60)
    words = ["model.hidden_size=16", "trainer.gpus=0", "trainer.max_duration=2step", "data=text_corpus"]
    shell.run(*words, f"data.path={odd}/one.txt")
    environment = {**os.environ, "HOME": str(odd), "XDG_CACHE_HOME": str(shell.folder / "cache")}
    done = subprocess.run(
        [str(COMMAND), *words, "data.path=~/one.txt"], cwd=shell.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
