"""The number of ranks changes nothing but rounding: real processes over gloo, in float64."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bigtrain.distributed.world import World

from .float64_worker import MODELS, train_all
from .ranks import run_ranks

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of what one rank has trained, and of what one, two and again one have."""
    whole, changing = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("changing")
    for folder in (whole, changing):
        for model in MODELS:
            (folder / model).mkdir()
            # The last window has one target instead of 16: in its step the ranks count differently.
            text = "".join(chr(97 + number * number % 23) for number in range(60 * 16 + 2))
            (folder / model / "train.txt").write_text(text)
            (folder / model / "val.txt").write_text("abcdefghij" * 20)
    train_all(whole, 30, ALONE)
    train_all(changing, 10, ALONE)
    run_ranks(Path(__file__).with_name("float64_worker.py"), 2, changing, 20)
    train_all(changing, 30, ALONE)
    return whole, changing


def tensors(folder):
    files = (folder / "checkpoints/step-00000030").glob("*.safetensors")
    return {f"{file.stem} {name}": value for file in files for name, value in safetensors.torch.load_file(file).items()}


def sample_ids(folder):
    return [json.loads(line) for line in (folder / "ids.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", MODELS)
def test_one_two_one_ranks_see_the_same_samples_and_end_with_the_same_weights(trained, model):
    whole, changing = (folder / model for folder in trained)
    assert sample_ids(changing) == sample_ids(whole)
    expected = tensors(whole)
    assert ("carried state" in expected) is (model == "lstm")
    for name, value in tensors(changing).items():
        difference = (value - expected[name]).abs().max().item()
        assert difference <= 1e-12, (name, difference)
