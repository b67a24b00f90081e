"""Sharded checkpoints through the installed command: every verb reads them as they are, `export` puts them together.

No rank has to run for that: a run's checkpoints are written again, in shards.
"""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch

from bigtrain.distributed.shards import Part
from bigtrain.storage.checkpoint import CheckpointStore, verify
from bigtrain.training.tensor_file import TensorFile

from ..storage.thread_ranks import as_ranks
from .conftest import TINY, Shell
from .test_resume_command import final_bytes


def shards_of(path, rank, size):
    """This rank's rows of all tensors of a file; scalars are rank 0's."""
    parts = {}
    for name, whole in safetensors.torch.load_file(path).items():
        rows = np.array_split(np.arange(len(whole)), size)[rank] if whole.ndim else []
        if len(rows):
            parts[name] = [Part(whole[rows], tuple(whole.shape), (int(rows[0]), *[0] * (whole.ndim - 1)), True)]
        elif rank == 0:
            parts[name] = [Part(whole, tuple(whole.shape), (0,) * whole.ndim, True)]
    return TensorFile.of_parts(parts)


def write_in_shards(path, size):
    """Puts a checkpoint of `size` shards in the place of a step directory, of which it holds the same."""
    checkpoint, aside = verify(path), path.with_name(f"aside-{path.name}")
    path.rename(aside)

    def save(ranks):
        files = {file.name: shards_of(file, ranks.rank, size) for file in aside.glob("*.safetensors")}
        if ranks.rank == 0:
            files |= {file.name: file.read_bytes() for file in aside.glob("*.json") if file.name != "manifest.json"}
        return CheckpointStore(path.parent, keep_last=99).save(checkpoint.step, files, checkpoint.facts(), ranks)

    assert as_ranks(size, save) == [path] * size
    shutil.rmtree(aside)
    assert (path / f"model.00002-of-0000{size}.safetensors").is_file() and not (path / "model.safetensors").exists()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A shell with a run whose checkpoints are whole, and a copy of it whose checkpoints are in three shards."""
    shell = Shell(tmp_path_factory.mktemp("both"))
    shell.run(*TINY, "model.dropout=0.1", "trainer.ema_decay=0.5", "name=whole")
    (run,) = shell.runs()
    sharded = run.parents[1] / "sharded" / run.name
    shutil.copytree(run, sharded)
    for path in (sharded / "checkpoints").glob("step-*"):
        write_in_shards(path, 3)
    return shell, run, sharded


def test_eval_generate_and_init_from_read_them_as_they_are(both):
    shell, whole, sharded = both
    words = ["generate", "prompt=ab", "max_tokens=20"]
    of_whole, of_shards = (shell.run(*words, f"checkpoint={run}").stdout for run in (whole, sharded))
    assert of_whole == of_shards
    shell.run("eval", "split=val", f"checkpoint={sharded}")
    measured = json.loads((sharded / "eval.json").read_text())["metrics"]["loss"]
    assert measured == pytest.approx(shell.status(whole)["metrics"]["val/loss"], rel=1e-6)
    done = shell.run(*TINY, "trainer.max_duration=1step", "name=finetuned", f"init_from={sharded}")
    count = len(safetensors.torch.load_file(whole / "checkpoints/step-00000020/model.safetensors"))
    assert f"{count} of {count} tensors loaded" in done.stdout


def test_export_puts_the_shards_together(both):
    shell, whole, sharded = both
    done = shell.run("export", f"checkpoint={sharded}", "path=together", "format=checkpoint")
    written = shell.folder / "together/checkpoints/step-00000020"
    original = whole / "checkpoints/step-00000020"
    assert {file.name for file in written.iterdir()} == {file.name for file in original.iterdir()}
    for file in original.iterdir():
        if file.name != "manifest.json":
            assert (written / file.name).read_bytes() == file.read_bytes(), file.name
    manifests = [verify(path).manifest for path in (written, original)]
    assert manifests[0] == manifests[1]
    assert str(written / "model.safetensors") in done.stdout
    assert shell.run("generate", "checkpoint=together", "prompt=ab", "max_tokens=5").stdout.startswith("ab")
    refused = shell.run("export", f"checkpoint={sharded}", "path=together", "format=checkpoint", code=5)
    assert "not empty" in refused.stderr


def test_one_process_goes_on_from_shards_with_the_same_bytes(both):
    shell, whole, sharded = both
    longer = ["trainer.max_duration=24step", "scheduler.extend=true"]
    for run in (whole, sharded):
        shell.run(f"resume={run}", *longer)
    assert final_bytes(sharded, 24) == final_bytes(whole, 24)
    assert verify(sharded / "checkpoints/step-00000024").manifest["format_version"] == 1
