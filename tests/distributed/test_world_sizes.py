"""The number of ranks changes nothing but rounding: real processes over gloo, in float64."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

WORKER = Path(__file__).with_name("float64_worker.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(folder, ranks, steps, model):
    folder.mkdir(exist_ok=True)
    # The last window has one target instead of 16: in its step the ranks count differently.
    (folder / "train.txt").write_text("".join(chr(97 + number * number % 23) for number in range(60 * 16 + 2)))
    (folder / "val.txt").write_text("abcdefghij" * 20)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(steps), model],
            env={**os.environ, **meeting, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-3000:]


def tensors(folder):
    files = (folder / "checkpoints/step-00000030").glob("*.safetensors")
    return {f"{file.stem} {name}": value for file in files for name, value in safetensors.torch.load_file(file).items()}


def sample_ids(folder):
    return [json.loads(line) for line in (folder / "ids.jsonl").read_text().splitlines()]


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_one_two_one_ranks_see_the_same_samples_and_end_with_the_same_weights(tmp_path, model):
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    train(whole, 1, 30, model)
    for ranks, steps in ((1, 10), (2, 20), (1, 30)):
        train(changing, ranks, steps, model)
    assert sample_ids(changing) == sample_ids(whole)
    expected = tensors(whole)
    assert ("carried state" in expected) is (model == "lstm")
    for name, value in tensors(changing).items():
        difference = (value - expected[name]).abs().max().item()
        assert difference <= 1e-12, (name, difference)
