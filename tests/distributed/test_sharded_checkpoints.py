"""Sharded checkpoints of real ranks over gloo: read in any layout, and never lost. What is run: saving_worker.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.storage.checkpoint import verify

from .ranks import LOOPBACK

KILLS = [*(f"0 {name}" for name in ("model", "state.json", "manifest.json", "latest")), "1 model"]  # rank, its file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(Path(__file__).with_name("saving_worker.py")), str(folder)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def files(folder, name):
    checkpoint = verify(folder / "reshard" / name / "step-00000001")
    return {file: facts for file, facts in checkpoint.manifest["files"].items() if file.endswith(".safetensors")}


def test_any_number_of_ranks_reads_any_layout_to_the_bit(results):
    for what, of_ranks in results["reshard"].items():
        assert all(different == [] for different in of_ranks), (what, of_ranks)


def test_one_four_two_one_ranks_end_with_the_files_of_the_first(folder):
    """Whole, in shards of 4, whole again: sizes and hashes."""
    assert files(folder, "third") == files(folder, "fourth") == files(folder, "one")
    assert sorted(files(folder, "second")) == sorted(files(folder, "four"))
    assert "model.00004-of-00004.safetensors" in files(folder, "four")
    assert "carried.safetensors" in files(folder, "four"), "what is not split rank 0 writes alone"


def test_of_replicas_the_first_writes(folder):
    assert {file for file in files(folder, "replicas") if file.startswith("model")} == {
        "model.00001-of-00002.safetensors",
        "model.00002-of-00002.safetensors",
    }
    both = [sum(facts["bytes"] for facts in files(folder, name).values()) for name in ("replicas", "one")]
    assert both[0] < both[1] + 6 * 2000, "headers, but no tensor twice"


@pytest.mark.parametrize("kill", KILLS)
def test_killed_at_any_file_of_a_save_nothing_is_lost(results, kill):
    assert results["killed"].keys() == set(KILLS)
    found, killed = results["killed"][kill], int(kill[0])
    assert found["ranks"][killed] is None
    survivor = found["ranks"][1 - killed]
    if kill == "0 latest":  # behind the commit
        assert found["newest"] == 2
    else:
        assert found["newest"] == 1
    assert (survivor["error"], survivor["exit"]) == ("RankLostError", 5)
    steps = [f"step-0000000{step}" for step in range(1, found["newest"] + 1)]
    assert found["then"] == ["latest", *steps], "nothing is left over after the next start"


def test_a_full_disk_at_one_rank_is_every_ranks_error(results):
    rank_0, rank_1 = results["full"]["ranks"]
    assert rank_0["exit"] == rank_1["exit"] == 5
    assert "error[DISK-FULL]: rank 1: no space to write" in rank_0["says"]
    assert "error[DISK-FULL]: no space to write" in rank_1["says"]
    assert (results["full"]["newest"], results["full"]["left"]) == (1, [])


def test_a_rank_that_stops_answering_is_lost_within_the_timeout(results):
    found = results["stopped"]
    assert (found["ranks"][0]["error"], found["newest"]) == ("RankLostError", 1)
    assert "Timed out" in found["ranks"][0]["says"]


def test_training_goes_on_meanwhile_and_what_is_saved_is_of_its_moment(results):
    assert results["background"] == [{"under way": True, "different": []}] * 2


def test_a_failure_in_the_background_is_raised_on_every_rank(results):
    assert [found["exit"] for found in results["failing"]] == [5, 5]
    assert all("no space" in found["says"] for found in results["failing"])


def test_where_one_rank_lacks_memory_for_a_copy_all_wait(results):
    assert results["memory"] == [{"under way": False, "different": []}] * 2
