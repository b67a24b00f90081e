"""A training that goes on with other numbers of ranks and other strategies ends with the weights of one process."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from bigtrain.distributed.world import World

from .ranks import run_ranks
from .walk_worker import RUNS, go_on

ALONE = World(0, 1, torch.device("cpu"))
WORKER = Path(__file__).with_name("walk_worker.py")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folders of one process all along, and of 1 → 4 fsdp → 2 ddp → 1."""
    whole, walk = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("walk")
    go_on(whole, 6, "auto", ALONE)
    go_on(walk, 2, "auto", ALONE)
    run_ranks(WORKER, 4, walk, 4, "fsdp")
    run_ranks(WORKER, 2, walk, 5, "ddp")
    go_on(walk, 6, "auto", ALONE)
    return whole, walk


@pytest.mark.parametrize("name", RUNS)
def test_a_walk_over_strategies_ends_with_the_weights_of_one_process(walked, name):
    whole, walk = (folder / name / "checkpoints" for folder in walked)
    assert (walk / "step-00000004/model.00004-of-00004.safetensors").is_file()
    assert not (walk / "step-00000005/model.00001-of-00002.safetensors").exists()
    files = {path.name for path in (whole / "step-00000006").glob("*.safetensors")}
    assert ("carried.safetensors" in files) is (name == "lstm")
    for file in files:
        expected, actual = (safetensors.torch.load_file(root / "step-00000006" / file) for root in (whole, walk))
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
