"""Which rank a launcher has made of this process."""

import pytest

from bigtrain.distributed.environment import first_host, rank_environment
from bigtrain.errors import ConfigError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_ID": "123456",
}


def test_alone():
    assert rank_environment({}) is None
    assert rank_environment({"WORLD_SIZE": "1"}) is None
    assert rank_environment({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None, "a batch script is one process"


def test_torchrun():
    found = rank_environment(TORCHRUN)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert (found.address, found.port) == ("head", 29500)


def test_slurm():
    found = rank_environment(SLURM)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert found.address == "gpu03"
    assert found.port == rank_environment({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).port


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,09],cpu1", "gpu03"), ("n1", "n1"), ("n1,n2", "n1"), ("rack1-n[7]", "rack1-n7")],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "x"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "x"},
        {"WORLD_SIZE": "2", "RANK": "x"},
        {key: value for key, value in TORCHRUN.items() if key != "MASTER_ADDR"},
        {key: value for key, value in SLURM.items() if key != "SLURM_PROCID"},
        {**SLURM, "SLURM_STEP_NODELIST": ""},
    ],
)
def test_an_incomplete_environment_is_a_sentence(environment):
    with pytest.raises(ConfigError) as caught:
        rank_environment(environment)
    assert "RANK-ENVIRONMENT" in str(caught.value)
