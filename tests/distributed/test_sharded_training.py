"""DDP, FSDP and HSDP end where one process does: real ranks over gloo, in float64, in every optimizer and architecture.

With clipping, moving average, micro-batches, unequal numbers of targets, and a step that is not finite on one rank.
"""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bigtrain.distributed.world import World
from bigtrain.storage.checkpoint import verify
from bigtrain.training.snapshot import whole_files
from bigtrain.training.tensor_file import WholeFile

from .ranks import run_ranks
from .sharded_worker import QUICK, WIDE, train_all

WORKER = Path(__file__).with_name("sharded_worker.py")
ALONE = World(0, 1, torch.device("cpu"))


def tensors(folder):
    """All tensors of the newest checkpoint, but running statistics: those are of rank 0 alone."""
    checkpoint = verify(max((folder / "checkpoints").glob("step-*")))
    return {
        f"{file}/{name}": value
        for file, content in whole_files(checkpoint).items()
        if isinstance(content, WholeFile)
        for name, value in safetensors.torch.load(b"".join(content.pieces())).items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


def difference(folder, other):
    """The largest difference of weights, averages and optimizer state, relative to 1 or the value; and of the rows."""
    expected, actual = tensors(folder), tensors(other)
    assert actual.keys() == expected.keys()
    of_tensors = {
        name: float(((actual[name] - value).abs() / value.abs().clamp(min=1)).max()) if value.numel() else 0.0
        for name, value in expected.items()
    }
    rows, same = (json.loads((place / "rows.json").read_text()) for place in (folder, other))
    assert [row["step"] for row in rows] == [row["step"] for row in same]
    prefixes = ("train/", "optim/") if "resnet" in folder.name else ("train/", "optim/", "val/", "train_eval/")
    of_rows = [
        abs(row[tag] - other_row[tag]) / max(1.0, abs(row[tag]))
        for row, other_row in zip(rows, same, strict=True)
        for tag in row
        if tag.startswith(prefixes)
    ]
    of_state = max(value for name, value in of_tensors.items() if name.startswith("optimizer"))
    of_weights = max(value for name, value in of_tensors.items() if not name.startswith("optimizer"))
    return max(of_rows, default=0.0), of_weights, of_state


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folders of what one process has trained, and of what four ranks have, as if two machines had two each."""
    one, four = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("four")
    train_all(one, ALONE, ["auto"], QUICK)
    run_ranks(WORKER, 4, four, "hsdp", ",".join(QUICK), LOCAL_WORLD_SIZE="2")
    return one / "auto", four / "hsdp"


@pytest.mark.parametrize("name", QUICK)
def test_ranks_with_parts_of_the_weights_end_where_one_process_does(quick, name):
    one, four = quick
    assert max(difference(one / name, four / name)) <= 1e-12


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_matrix(tmp_path):
    """Prints the table of docs/gpu.md."""
    train_all(tmp_path / "1", ALONE, ["auto"], WIDE)
    columns = {f"{ranks} {strategy}": (ranks, strategy, ranks) for ranks in (2, 4) for strategy in ("fsdp", "ddp")}
    columns |= {"2 x 2 hsdp": (4, "hsdp", 2)}
    found = {}
    for column, (ranks, strategy, local) in columns.items():
        folder = tmp_path / column.replace(" ", "-")
        run_ranks(WORKER, ranks, folder, strategy, ",".join(WIDE), timeout=1800, LOCAL_WORLD_SIZE=str(local))
        for name in WIDE:
            found[name, column] = difference(tmp_path / "1/auto" / name, folder / strategy / name)
            print(column, name, *(f"{value:.0e}" for value in found[name, column]), flush=True)
    print(f"\n| largest difference | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in WIDE:
        print(f"| {name} | {' | '.join(f'{max(found[name, column]):.0e}' for column in columns)} |")
    for part, place in {"losses": 0, "weights": 1, "optimizer state": 2}.items():
        worst = [max(found[name, column][place] for name in WIDE) for column in columns]
        print(f"| all: {part} | {' | '.join(f'{value:.0e}' for value in worst)} |")
    assert max(map(max, found.values())) <= 1e-12
