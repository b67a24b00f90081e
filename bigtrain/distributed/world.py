"""The world: this rank, the number of ranks, the device, and the collectives that are used.

Tensors are summed over the device's own backend (NCCL or gloo). Numbers that the host needs (target counts, whether to
stop) use a second process group, on the CPU, so that exchanging them never waits for a GPU.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bigtrain.config.durations import parse_duration
from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.environment import RankEnvironment, rank_environment, threads_of_task
from bigtrain.distributed.launch import available_cores
from bigtrain.distributed.meeting import RankLostError, meet
from bigtrain.errors import ConfigError, MachineError

_SECONDS_BETWEEN_LOOKS = 0.05
# NCCL's own timeout aborts the process without a word: the host's group, which meets every step, gives up before it.
_NCCL_LATER = timedelta(seconds=30)


@dataclass(frozen=True)
class World:
    """`rank` of `size`, on `device`. With one rank every collective returns its argument."""

    rank: int
    size: int
    device: torch.device
    host_group: Any = None
    local_size: int = 1  # ranks on this machine
    timeout: timedelta | None = None  # of a collective
    tensor_parallel: int = 1  # consecutive ranks that compute each block together, on the same samples

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files and prints."""
        return self.rank == 0

    @property
    def data_size(self) -> int:
        """How many shares a batch is cut into: one for each group of `tensor_parallel` ranks."""
        return self.size // self.tensor_parallel

    @property
    def data_rank(self) -> int:
        """Which share this rank reads."""
        return self.rank // self.tensor_parallel

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in place; of ranks that read the same samples the first counts."""
        if self.rank % self.tensor_parallel:
            value.zero_()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, values: Sequence[float]) -> np.ndarray:
        """The values of every rank, (size, len(values)) float64, on every rank's host."""
        if self.size == 1:
            return np.array([values], dtype=np.float64)
        everyone = torch.zeros(self.size, len(values), dtype=torch.float64, device="cpu")
        everyone[self.rank] = torch.tensor(values, dtype=torch.float64, device="cpu")
        dist.all_reduce(everyone, group=self.host_group)
        return everyone.numpy()

    def gather_shares(self, values: Sequence[float]) -> np.ndarray:
        """`gather`, of the first rank of those that read the same samples: (data_size, len(values))."""
        return self.gather(values)[:: self.tensor_parallel]

    def broadcast(self, text: str) -> str:
        """Rank 0's text, on every rank (the others' argument is ignored)."""
        if self.size == 1:
            return text
        encoded = text.encode()
        length = torch.tensor(len(encoded), device="cpu")
        dist.broadcast(length, 0, group=self.host_group)
        content = torch.zeros(int(length), dtype=torch.uint8, device="cpu")
        if self.is_main:
            content = torch.tensor(list(encoded), dtype=torch.uint8, device="cpu")
        dist.broadcast(content, 0, group=self.host_group)
        return bytes(content.tolist()).decode()

    def exchange(self, document: Any) -> list[Any]:
        """Every rank's JSON document, by rank, on every rank."""
        if self.size == 1:
            return [document]
        encoded = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)
        lengths = self.gather([len(encoded)])[:, 0].astype(int)
        padded = torch.zeros(lengths.max(), dtype=torch.uint8, device="cpu")
        padded[: len(encoded)] = torch.from_numpy(encoded.copy())
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(everyone, padded, group=self.host_group)
        return [json.loads(bytes(of.numpy()[:length])) for of, length in zip(everyone, lengths, strict=True)]

    def apart(self) -> World:
        """The same ranks with a host group of their own, whose collectives may run in a thread beside this world's.
        Every rank calls it.
        """
        if self.size == 1:
            return self
        return replace(self, host_group=dist.new_group(backend="gloo", timeout=self.timeout))

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copies rank 0's buffers (running statistics) to every rank: a checkpoint keeps rank 0's."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    @contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """Rank 0 runs the block before the others, without a timeout: they then find what it has prepared."""
        if self.size == 1:
            yield
            return
        store, key = dist.distributed_c10d._get_default_store(), f"bigtrain/{what}"
        while not self.is_main and not store.check([key]):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        yield
        if self.is_main:
            store.set(key, "done")


def ranks_to_start(settings: TrainerConfig, launched: bool = False) -> int:
    """How many ranks this process should start; 1 where it trains itself, alone or as one of a launcher's ranks.

    `launched`: whether that launcher is bigtrain's own.

    Raises ConfigError where the settings contradict a launcher, MachineError where GPUs are missing.
    """
    environment = rank_environment(os.environ)
    if environment is not None:
        _refuse_contradiction(settings, environment)
        if settings.max_restarts and not launched:
            raise ConfigError.of(
                "RANK-CONTRADICTION",
                f"trainer.max_restarts is {settings.max_restarts}, but another launcher has started the ranks",
                cause=f"the environment: {environment.launcher}={environment.size}",
                fix="leave it out, and let that launcher restart them, with resume=auto: torchrun --max-restarts=N",
            )
        return 1
    if settings.processes > 1:
        return settings.processes
    visible = visible_gpus(settings.gpus)
    if settings.gpus != "auto":
        return max(1, int(settings.gpus))
    micro_batch_size = settings.fixed_micro_batch_size or 1
    fitting = [
        count * settings.tensor_parallel
        for count in range(1, visible // settings.tensor_parallel + 1)
        if settings.batch_size % (count * micro_batch_size) == 0
    ]
    return max(fitting, default=1)


def require_tensor_parallel(settings: TrainerConfig, ranks: int) -> None:
    """Raises ConfigError where so many ranks can't be cut into groups of `trainer.tensor_parallel`."""
    if ranks % settings.tensor_parallel:
        wanted = -(-ranks // settings.tensor_parallel) * settings.tensor_parallel
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"trainer.tensor_parallel is {settings.tensor_parallel}, but there {'are' if ranks > 1 else 'is'} {ranks} "
            f"rank{'s' if ranks > 1 else ''}",
            cause="ranks are cut into groups of so many, each of which computes every block together",
            fix=f"trainer.gpus={wanted} (on CPUs: trainer.processes={wanted}), or trainer.tensor_parallel=1",
        )


@contextmanager
def join_world(settings: TrainerConfig) -> Iterator[World]:
    """The world of this process: alone, or of a launcher's ranks, whose process groups exist within the block.

    Raises MachineError when a GPU asked for is not there, or when the ranks can't meet within `trainer.rank_timeout`.
    """
    environment = rank_environment(os.environ)
    gpus = "0" if settings.processes > 1 else settings.gpus
    require_tensor_parallel(settings, 1 if environment is None else environment.size)
    if environment is None:
        yield lone_world(gpus)
        return
    if environment.launcher.startswith("SLURM") and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_of_task(os.environ, available_cores()))
    device = _device_of(environment, gpus)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=parse_duration(settings.rank_timeout).seconds or 600)
    with lost_ranks():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=meet(environment, timeout.total_seconds()),
            rank=environment.rank,
            world_size=environment.size,
            timeout=timeout if device.type == "cpu" else timeout + _NCCL_LATER,
            device_id=device if device.type == "cuda" else None,
        )
        host_group = dist.new_group(backend="gloo", timeout=timeout)
        world = World(
            environment.rank,
            environment.size,
            device,
            host_group,
            environment.local_size,
            timeout,
            settings.tensor_parallel,
        )
    try:
        with lost_ranks():
            yield world
            world.gather([0.0])  # a barrier: a rank that left while rank 0 still writes would count as lost
    finally:
        dist.destroy_process_group()  # without it, gloo's threads abort the process at exit


def lone_world(gpus: str) -> World:
    """A world of one. `gpus` as in `trainer.gpus`. Raises MachineError when a GPU asked for is not there."""
    return World(0, 1, torch.device("cuda", 0) if visible_gpus(gpus) else torch.device("cpu"))


def visible_gpus(gpus: str) -> int:
    """GPUs that may be used under `trainer.gpus`. Raises MachineError when more are asked for than there are."""
    visible = torch.cuda.device_count() if gpus != "0" else 0
    if gpus not in ("auto", "0") and visible < int(gpus):
        raise MachineError.of(
            "DEVICE-GPU",
            f"trainer.gpus={gpus}, but {visible or 'no'} GPU{'s are' if visible > 1 else ' is'} visible",
            cause=_why_no_gpu(),
            fix="run on the CPU with trainer.gpus=0 (or leave it at auto)",
        )
    return visible


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Raises RankLostError for the backend's error of a collective, which means that another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if not isinstance(error, dist.DistError) and not any(sign in words for sign in _BACKEND_SIGNS):
            raise
        raise RankLostError.of(
            "RANK-LOST",
            "another rank is gone, or has not answered within trainer.rank_timeout",
            cause=words.splitlines()[0].partition(". This is typically")[0][:300],
            fix="look at what that rank has said; then go on with resume=",
        ) from error


_BACKEND_SIGNS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")


def _refuse_contradiction(settings: TrainerConfig, environment: RankEnvironment) -> None:
    asked = {"trainer.processes": settings.processes if settings.processes > 1 else None}
    asked["trainer.gpus"] = int(settings.gpus) if settings.gpus not in ("auto", "0") else None
    for key, count in asked.items():
        if count is not None and count != environment.local_size:
            raise ConfigError.of(
                "RANK-CONTRADICTION",
                f"{key} is {count}, but the launcher has started {environment.local_size} ranks on this machine, "
                f"{environment.size} in all",
                cause=f"the environment: {environment.launcher}={environment.size}",
                fix=f"leave {key} out, or start bigtrain without the launcher",
            )


def _device_of(environment: RankEnvironment, gpus: str) -> torch.device:
    visible = torch.cuda.device_count() if gpus != "0" else 0
    if not visible:
        return torch.device("cpu")
    if visible >= environment.local_size:
        return torch.device("cuda", environment.local_rank)
    if visible == 1 and environment.launcher.startswith("SLURM"):  # each task sees only its own GPU
        return torch.device("cuda", 0)
    raise MachineError.of(
        "DEVICE-GPU",
        f"{environment.local_size} ranks on this machine, but {visible} GPUs",
        cause="the launcher has started a rank for each GPU that it thought was there",
        fix=f"start {visible} ranks, or train on the CPU with trainer.gpus=0",
    )


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({torch.__version__}) is a build for CPUs; a GPU needs one with CUDA or ROCm"
    return "torch sees fewer devices: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
