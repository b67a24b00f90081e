"""Real ranks that save and load sharded checkpoints, for test_sharded_checkpoints.py: `saving_worker.py FOLDER`.

Torch is imported once, and every group of ranks forked from here: a start takes 0.1 s instead of 4.
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch._dynamo  # which fully_shard would import in every child
import torch.distributed as dist
from torch import nn
from torch.amp import GradScaler
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from bigtrain.distributed.shards import Part
from bigtrain.distributed.world import World, lost_ranks
from bigtrain.errors import BigtrainError
from bigtrain.storage import durable
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.training import saver as saver_module
from bigtrain.training.saver import Saver
from bigtrain.training.snapshot import Snapshot, load_evaluated_weights, load_matching
from bigtrain.training.state import TrainState
from bigtrain.training.tensor_file import TensorFile

WRITES = {0: ["model", "state.json", "manifest.json", "latest"], 1: ["model"]}  # of one save, by rank


def forked(folder, size, act, seconds=60):
    """What `act(world)` returns on each of `size` ranks; None of one that was killed."""
    folder.mkdir(parents=True)
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            run_rank(folder, rank, size, act, seconds)
        children.append(child)
    waiting, deadline = set(children), time.monotonic() + 90
    while waiting:
        done = {child for child in waiting if os.waitpid(child, os.WNOHANG)[0]}
        waiting -= done
        others_done = len(waiting) == 1 and (folder / "stopped").exists()
        if others_done or time.monotonic() > deadline:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    results = [folder / f"result-{rank}.json" for rank in range(size)]
    return [json.loads(path.read_text()) if path.exists() else None for path in results]


def run_rank(folder, rank, size, act, seconds):
    """A forked child: joins, acts, writes what came of it, and ends."""
    try:
        timeout = timedelta(seconds=seconds)
        store = dist.FileStore(str(folder / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        group = dist.new_group(backend="gloo", timeout=timeout)
        world = World(rank, size, torch.device("cpu"), group, timeout=timeout)
        try:
            with lost_ranks():
                result = act(world)
        except BigtrainError as error:
            result = {"error": type(error).__name__, "exit": int(error.exit_code), "says": str(error)}
        (folder / f"result-{rank}.json").write_text(json.dumps(result))
    except BaseException:
        (folder / f"result-{rank}.json").write_text(json.dumps({"bug": traceback.format_exc()}))
    os._exit(0)


class Small(nn.Module):
    """Sizes that no number of ranks divides, an embedding that is tied, buffers of other types, and a scalar."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 5)
        self.block = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 5, bias=False))
        self.head = nn.Linear(5, 3)
        self.head.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.randn(1))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False, True]))


def snapshot_of(world, layout, seed):
    """A snapshot whose values follow from the seed; `layout`: whole, fsdp or hsdp."""
    torch.manual_seed(seed)
    network = Small()
    if layout != "whole":
        shape = (world.size,) if layout == "fsdp" else (2, world.size // 2)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
        fully_shard(network.block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    optimizer = SimpleNamespace(state={})  # torch's own would import its compiler
    for parameter in network.parameters():
        optimizer.state[parameter] = {"step": torch.tensor(seed + 4.0), "exp_avg": parameter.detach() * 2}
    average = SimpleNamespace(tensors={name: value.detach() + 1 for name, value in network.named_parameters()})
    data = SimpleNamespace(spec=SimpleNamespace(to_json=dict, fingerprint=""), tokenizer=None)
    module = SimpleNamespace(network=network, recurrent_state=torch.randn(4, 2))
    scaler = GradScaler("cpu", enabled=False)
    return Snapshot(module, optimizer, average, scaler, TrainState(), data, world, config={})


def differences(snapshot):
    """Names of the tensors that are not, to the bit, those of seed 0."""
    expected = snapshot_of(snapshot.world, "whole", 0)._tensors()
    different = []
    for file, tensors in snapshot._tensors().items():
        assert tensors.keys() == expected[file].keys()
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if not torch.equal(full, expected[file][name]):
                different.append(name)
    return different


def save(world, folder, layout, seed=0, source=None):
    """Saves step 1 in this layout: values of a seed, or those restored from a folder."""
    snapshot = snapshot_of(world, layout, seed)
    if source is not None:
        snapshot.restore(CheckpointStore(source).newest(ranks=world))
    store = CheckpointStore(folder)
    if world.is_main:
        store.prepare()
    world.gather([0.0])
    Saver(store, snapshot).save(1)
    world.gather([0.0])
    return differences(snapshot)


def load(world, folder, layout):
    """Restores into other values; returns what differs afterwards."""
    snapshot = snapshot_of(world, layout, 1)
    assert "gain" in differences(snapshot)
    snapshot.restore(CheckpointStore(folder).newest(ranks=world))
    return differences(snapshot)


def load_weights(world, folder, layout):
    """Names that differ from the averages after reading the evaluated weights, for evaluation and for finetuning."""
    found = []
    for read in (load_evaluated_weights, load_matching):
        snapshot = snapshot_of(world, layout, 1)
        read(snapshot.module.network, CheckpointStore(folder).newest(ranks=world))
        expected = snapshot_of(world, "whole", 0).average.tensors
        for name, tensor in snapshot.module.network.named_parameters():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            found += [] if torch.equal(full, expected[name]) else [name]
    return found


def reshard(folder):
    """Saved in one layout and read in others, {target: what differs on each rank}; and a walk 1 → 4 → 2 → 1."""
    layouts = {"one": (1, "whole"), "four": (4, "fsdp"), "replicas": (4, "hsdp")}
    results = {}
    for name, (size, layout) in layouts.items():
        act = lambda world: save(world, folder / name, layout)  # noqa: B023, E731
        results[f"save {name}"] = forked(folder / f"ranks-{name}", size, act)
    readers = {1: ("whole", ["replicas"]), 2: ("whole", ["four"]), 3: ("fsdp", ["one", "four", "replicas"])}
    for size, (layout, names) in readers.items():
        act = lambda world: sum([load(world, folder / name, layout) for name in names], [])  # noqa: B023, E731
        results[f"read by {size}"] = forked(folder / f"ranks-{size}", size, act)
    act = lambda world: load_weights(world, folder / "four", "fsdp")  # noqa: E731
    results["weights"] = forked(folder / "ranks-weights", 2, act)
    walk = {"second": (4, "fsdp", "one"), "third": (2, "whole", "second"), "fourth": (1, "whole", "third")}
    for target, (size, layout, source) in walk.items():
        act = lambda world: save(world, folder / target, layout, 1, folder / source)  # noqa: B023, E731
        results[target] = forked(folder / f"ranks-{target}", size, act)
    return results


def small_files(world, step):
    """One box of a tensor from each rank, and a document."""
    part = Part(torch.full((2, 3), float(step)), (2 * world.size, 3), (2 * world.rank, 0), True)
    files = {"model.safetensors": TensorFile.of_parts({"weight": [part]})}
    return files | ({"state.json": b"{}"} if world.is_main else {})


def interrupted(folder, failing, call, how, seconds=60):
    """Two ranks save step 1, and then step 2, in which `how(path)` befalls one of them at a file that it writes."""

    def act(world):
        store = CheckpointStore(folder / "checkpoints")
        if world.is_main:
            store.prepare()
        world.gather([0.0])
        store.save(1, small_files(world, 1), {}, world)
        real, calls = durable.write_new, []

        def write_new(path, content):
            calls.append(path)
            if world.rank == failing and len(calls) == call:
                path.write_bytes(b"half")
                how(path)
                path.unlink()
            return real(path, content)

        durable.write_new = write_new
        store.save(2, small_files(world, 2), {}, world)
        return "saved"

    results = forked(folder / "ranks", 2, act, seconds)
    store = CheckpointStore(folder / "checkpoints")
    newest, left = store.newest().step, [path.name for path in store.root.glob(".tmp-*")]
    store.prepare()
    return {
        "ranks": results,
        "newest": newest,
        "left": left,
        "then": sorted(path.name for path in store.root.iterdir()),
    }


def full(path):
    """The disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def stop_here(path):
    """Stops this process, as a debugger or a lost machine would; whoever waits for the rest may then kill it."""
    (path.parents[2] / "ranks" / "stopped").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def in_the_background(world, folder, failing=None, memory=None):
    """Trains on (collectives, weights that change) while a save is under way; whether it was, and what was saved."""
    snapshot = snapshot_of(world, "fsdp", 0)
    store = CheckpointStore(folder)
    if world.is_main:
        store.prepare()
    world.gather([0.0])
    gate, real = folder / "gate", durable.write_new

    def write_new(path, content):
        while world.rank == 1 and not gate.exists():
            time.sleep(0.002)
        if world.rank == failing:
            full(path)
        return real(path, content)

    durable.write_new = write_new
    if memory == world.rank:
        saver_module.available_memory_bytes = lambda: 0
    if memory is not None:
        gate.touch()
    with Saver(store, snapshot) as saver:
        saver.save(1)
        under_way = bool(saver._jobs)
        for _ in range(20):
            world.sum(torch.ones(3))
            world.gather([1.0])
            for parameter in snapshot.module.network.parameters():
                parameter.detach().add_(1)
        gate.touch()
        saver.wait()
    return {"under way": under_way, "different": load(world, folder, "fsdp")}


def main(folder):
    """All scenarios; their results in results.json."""
    results = {"reshard": reshard(folder / "reshard"), "killed": {}}
    for rank, names in WRITES.items():
        for call, name in enumerate(names, 1):
            where = folder / f"killed-{rank}-{call}"
            kill = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            results["killed"][f"{rank} {name}"] = interrupted(where, rank, call, kill)
    results["full"] = interrupted(folder / "full", 1, 1, full)
    results["stopped"] = interrupted(folder / "stopped", 1, 1, stop_here, seconds=1.5)
    for name, options in {"background": {}, "failing": {"failing": 1}, "memory": {"memory": 1}}.items():
        act = lambda world: in_the_background(world, folder / name, **options)  # noqa: B023, E731
        results[name] = forked(folder / f"ranks-{name}", 2, act)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
