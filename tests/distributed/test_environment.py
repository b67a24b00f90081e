"""Which rank a launcher has made of this process."""

import pytest

from bigtrain.distributed.environment import first_host, rank_environment, tasks_per_node, threads_of_task
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


@pytest.mark.parametrize(("node", "tasks"), [("0", 2), ("2", 2), ("3", 1)])
def test_each_node_of_slurm_has_its_own_number_of_tasks(node, tasks):
    step = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NUM_TASKS": "7", "SLURM_NODEID": node}
    assert rank_environment(step).local_size == tasks
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1] and tasks_per_node("") == []


def test_each_step_of_a_job_meets_at_a_port_of_its_own():
    jobs = [{**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": step} for job in (9, 10) for step in ("0", "1", "2")]
    ports = [rank_environment(job).port for job in jobs]
    assert len(set(ports)) == 6 and all(10_000 <= port < 30_000 for port in ports)
    assert rank_environment({**SLURM, "MASTER_PORT": "7", "MASTER_ADDR": "x"}).port == 7


def test_slurm_with_the_variables_of_others_beside_it():
    """Habits of batch scripts: WORLD_SIZE exported for all tasks; PMI under srun."""
    assert rank_environment({**SLURM, "WORLD_SIZE": "4", "PMI_SIZE": "4"}).launcher == "SLURM_STEP_NUM_TASKS"


@pytest.mark.parametrize(
    ("asked", "on_node", "cores", "threads"),
    [
        ("4", "8", 4, 4),  # bound to the cores that it asked for
        ("4", "8", 8, 4),  # not bound
        ("4", "8", 2, 2),  # bound to fewer
        ("", "8", 4, 4),  # bound
        ("", "8", 8, 4),  # not bound: a share
        ("", "1", 1, 1),
        ("", "", 8, 4),
    ],
)
def test_threads_of_a_task_of_slurm(asked, on_node, cores, threads):
    step = {**SLURM, "SLURM_CPUS_PER_TASK": asked, "SLURM_CPUS_ON_NODE": on_node}
    assert threads_of_task(step, cores) == threads


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,09],cpu1", "gpu03"),
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("rack1-n[7]", "rack1-n7"),
        ("rack[1-2]n[03,05]-ib", "rack1n03-ib"),
    ],
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
        {**SLURM, "SLURM_NODEID": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "2"},
    ],
)
def test_an_incomplete_environment_is_a_sentence(environment):
    with pytest.raises(ConfigError) as caught:
        rank_environment(environment)
    assert "RANK-ENVIRONMENT" in str(caught.value)
