"""For every backbone with every task and kind of data, two ranks end where one does: real processes, in float64.

Some steps have batches that the ranks share unequally, or in which they count different numbers of targets.
"""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_runs import STEPS, runs

from bigtrain.distributed.world import World

from .every_pair_worker import train_all
from .ranks import run_ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of all runs in one rank and in two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    train_all(one, World(0, 1, torch.device("cpu")))
    run_ranks(Path(__file__).with_name("every_pair_worker.py"), 2, two)
    return one, two


@pytest.mark.parametrize("name", runs())
def test_two_ranks_end_with_the_weights_and_metrics_of_one(trained, name):
    one, two = (folder / name for folder in trained)
    files = {file.name for file in (one / f"checkpoints/step-{STEPS:08d}").glob("*.safetensors")}
    assert {"model.safetensors", "optimizer.safetensors"} <= files
    for file in files:
        expected, actual = (
            safetensors.torch.load_file(folder / f"checkpoints/step-{STEPS:08d}" / file) for folder in (one, two)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    expected, actual = (json.loads((folder / "rows.json").read_text()) for folder in (one, two))
    assert [row["step"] for row in actual] == [row["step"] for row in expected]
    for row, same in zip(actual, expected, strict=True):
        for tag in same:
            if tag.startswith(("train/", "val/", "optim/")):
                assert row[tag] == pytest.approx(same[tag], rel=1e-10, abs=1e-12), (tag, row["step"])
