"""The rank of this process, from the environment variables of its launcher: torchrun (also bigtrain's own) or Slurm.

Free of torch. Ranks are started in `launch.py` and join each other in `world.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bigtrain.errors import ConfigError


@dataclass(frozen=True)
class RankEnvironment:
    """`rank` of `size` over all machines, `local_rank` of `local_size` on this one; `launcher`: the variable read."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    launcher: str


def rank_environment(environment: Mapping[str, str]) -> RankEnvironment | None:
    """The rank that a launcher has assigned to this process; None without one, or with a single rank.

    Raises ConfigError for variables that a launcher has left incomplete.
    """
    if environment.get("WORLD_SIZE") and environment.get("RANK"):
        return _from_torchrun(environment)
    # Slurm sets SLURM_NTASKS in a batch script too, which is one process; SLURM_STEP_NUM_TASKS only under srun.
    if environment.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1"):
        return _from_slurm(environment)
    if environment.get("WORLD_SIZE", "1") not in ("", "1"):
        raise _incomplete(f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set")
    for size in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):  # else each process would train a run of its own
        if environment.get(size, "1") not in ("", "1"):
            raise _incomplete(f"{size} is {environment[size]}, but the variables of mpirun are not read")
    return None


def _from_torchrun(environment: Mapping[str, str]) -> RankEnvironment | None:
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_size = int(environment.get("LOCAL_WORLD_SIZE", size))
        if size == 1:
            return None
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise _incomplete(str(error)) from error
    return RankEnvironment(rank, size, local_rank, local_size, address, port, "WORLD_SIZE")


def _from_slurm(environment: Mapping[str, str]) -> RankEnvironment:
    try:
        rank, size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        local_rank = int(environment["SLURM_LOCALID"])
        nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
        address = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
        port = int(environment.get("MASTER_PORT") or _port_of_step(environment))
        tasks = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE") or "")
        local_size = tasks[int(environment.get("SLURM_NODEID", 0))] if tasks else -(-size // nodes)
    except (LookupError, ValueError) as error:
        raise _incomplete(str(error)) from error
    return RankEnvironment(rank, size, local_rank, local_size, address, port, "SLURM_STEP_NUM_TASKS")


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: `gpu[03-05,09],cpu1` → `gpu03`."""
    head = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes)
    if head is None:
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", head[0])


def tasks_per_node(tasks: str) -> list[int]:
    """Slurm's counts of tasks, node by node: `2(x3),1` → [2, 2, 2, 1]."""
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(count) for count, times in counts for _ in range(int(times or 1))]


def threads_of_task(environment: Mapping[str, str], cores: int) -> int:
    """CPU threads for one task of srun that may use `cores`: those it asked for, else its share of the machine's.

    Where Slurm does not bind tasks to cores, each may use all that the job has on the machine.
    """
    if (asked := environment.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        return max(1, min(int(asked), cores))
    bound = cores < int(environment.get("SLURM_CPUS_ON_NODE") or cores)
    return cores if bound else max(1, cores // _from_slurm(environment).local_size)


def _port_of_step(environment: Mapping[str, str]) -> int:
    """A port for each job, and each step of one, the same on all ranks; below those that Linux hands out itself."""
    step = environment.get("SLURM_STEP_ID", "0")
    return 10_000 + (int(environment["SLURM_JOB_ID"]) + 7919 * (int(step) if step.isdigit() else 0)) % 20_000


def _incomplete(what: str) -> ConfigError:
    return ConfigError.of(
        "RANK-ENVIRONMENT",
        f"the environment of this rank is incomplete: {what}",
        cause="variables that a launcher such as torchrun or srun sets",
        fix="start it by torchrun or srun, or without one: trainer.gpus=N and trainer.processes=N start ranks too",
    )
