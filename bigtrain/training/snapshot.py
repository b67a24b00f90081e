"""The content of a checkpoint: live objects → files, and back into live objects by `copy_`.

Tensors are stored under the names that modules give their parameters; a tied weight is stored once. Loading copies into
existing storage: a weight that is a few bytes off alignment gives other bytes in a product.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from bigtrain import __version__
from bigtrain.data.base import DataModule
from bigtrain.distributed.shards import Part, is_sharded, parts_of
from bigtrain.distributed.world import World
from bigtrain.errors import CheckpointError
from bigtrain.optim.base import Optimizer
from bigtrain.storage.checkpoint import Checkpoint
from bigtrain.tasks.base import TrainingModule
from bigtrain.training.machine import device_name
from bigtrain.training.moving_average import MovingAverage
from bigtrain.training.state import TrainState
from bigtrain.training.tensor_file import (
    StoredTensor,
    TensorFile,
    WholeFile,
    copy_parts,
    load_tensors,
    stored_tensors,
)

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
RECURRENT_STATE_FILE = "carried.safetensors"  # the name of earlier versions, which old checkpoints have


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each storage once: the module's own tensors."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value
    return tensors


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """`live_tensors` for reading and writing values: detached, sharing storage."""
    return {name: value.detach() for name, value in live_tensors(module).items()}


def optimizer_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Optimizer state as `<parameter name>/<key>`."""
    return {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def serialize_json(document: Any) -> bytes:
    """A JSON file."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


def read_state(checkpoint: Checkpoint) -> TrainState:
    """The state of a checkpoint. Raises CheckpointError when it is none."""
    try:
        return TrainState.from_json(checkpoint.read_json("state.json"))
    except (TypeError, ValueError, AttributeError) as error:
        raise checkpoint.broken(f"state.json: {error}") from error


@dataclass
class Snapshot:
    """Everything that a checkpoint of a training run holds, gathered from and put back into the live objects."""

    module: TrainingModule
    optimizer: Optimizer
    average: MovingAverage | None
    scaler: GradScaler
    state: TrainState
    data: DataModule
    world: World
    config: dict[str, Any]  # the settings, as `config.json` holds them

    @cached_property
    def documents(self) -> dict[str, bytes]:
        """The files that never change: with them a checkpoint can be used without its run and its data."""
        documents = {"config.json": self.config, "data_spec.json": self.data.spec.to_json()}
        if self.data.tokenizer is not None:
            documents["tokenizer.json"] = self.data.tokenizer.to_json()
        return {name: serialize_json(document) for name, document in documents.items()}

    def size_bytes(self) -> int:
        """Bytes of the tensors of one checkpoint: about its size on disk."""
        return sum(tensor.nbytes for tensors in self._tensors().values() for tensor in tensors.values())

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold different parts, so that each must write its own."""
        return any(is_sharded(tensor) for tensors in self._tensors().values() for tensor in tensors.values())

    def files(self) -> dict[str, bytes | TensorFile]:
        """Name → content of what this rank writes, as `CheckpointStore.save` takes it: the numbers as they are now, the
        tensors live. Of sharded tensors the parts that no rank before this one holds; all else is rank 0's.
        """
        self.state.scaler = {key: float(value) for key, value in self.scaler.state_dict().items()}
        files: dict[str, bytes | TensorFile] = {}
        for name, tensors in self._tensors().items():
            own = {key: parts for key, tensor in tensors.items() if (parts := self._own_parts(tensor))}
            if own or self.world.is_main:
                files[name] = TensorFile.of_parts(own)
        if self.world.is_main:
            files |= {"state.json": serialize_json(self.state.to_json()), **self.documents}
        return files

    def _own_parts(self, tensor: Tensor) -> list[Part]:
        """What this rank is the first to hold; none of it without elements, unless the tensor has none."""
        parts = parts_of(tensor, self.world.rank)
        return [part for part in parts if part.first_holder and (part.values.numel() or not tensor.numel())]

    def manifest_facts(self) -> dict[str, Any]:
        """Fields of the manifest beside its files: software, hardware, data, and what `auto` became."""
        return {
            "bigtrain": __version__,
            "torch": torch.__version__,
            "world_size": self.world.size,
            "threads": self.state.threads,
            "device": device_name(self.world.device),
            "resolved": dict(self.state.resolved),
            "data_fingerprint": self.data.spec.fingerprint,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Weights, average, optimizer, recurrent state and loss scale as the checkpoint has them. The loss scale's
        numbers are in the state, which was read before (`read_state`).

        Raises CheckpointError when they do not fit.
        """
        for name, tensors in self._tensors().items():
            load_tensors(checkpoint.tensor_files(name), tensors)
        if self.scaler.is_enabled():
            counts = ("growth_interval", "_growth_tracker")
            scaler = {key: int(value) if key in counts else value for key, value in self.state.scaler.items()}
            self.scaler.load_state_dict(scaler)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """File name → its tensors by name."""
        files = {
            MODEL_FILE: module_tensors(self.module.network),
            "optimizer.safetensors": optimizer_tensors(self.optimizer, self.module.network),
        }
        if self.average is not None:
            files[AVERAGE_FILE] = self.average.tensors
        if self.module.recurrent_state is not None:
            files[RECURRENT_STATE_FILE] = {"state": self.module.recurrent_state}
        return files


def load_evaluated_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies the weights that a checkpoint's run evaluates: the moving average where it keeps one."""
    targets = module_tensors(network)
    load_tensors(checkpoint.tensor_files(MODEL_FILE), targets)
    if checkpoint.has(AVERAGE_FILE):  # of floating tensors only
        targets = {name: value for name, value in targets.items() if value.is_floating_point()}
        load_tensors(checkpoint.tensor_files(AVERAGE_FILE), targets)


def evaluated_tensors(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Name → where it is stored, of the weights that a checkpoint's run evaluates."""
    tensors: dict[str, StoredTensor] = {}
    for name in (MODEL_FILE, AVERAGE_FILE):
        if checkpoint.has(name):
            tensors |= stored_tensors(checkpoint.tensor_files(name))
    return tensors


def whole_files(checkpoint: Checkpoint) -> dict[str, bytes | WholeFile]:
    """The files of a checkpoint as one rank alone would have written them, as `CheckpointStore.save` takes them."""
    return {
        name: WholeFile(stored_tensors(checkpoint.tensor_files(name)))
        if name.endswith(".safetensors")
        else (checkpoint.path / name).read_bytes()
        for name in checkpoint.names()
    }


def load_matching(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Finetuning: copies the whole backbone, and heads of the same name and shape; returns a report in sentences.

    Raises CheckpointError when a tensor of the backbone is missing or has another shape: then it is another model.
    """
    targets = module_tensors(network)
    given = evaluated_tensors(checkpoint)
    loaded = [name for name, target in targets.items() if name in given and given[name].shape == tuple(target.shape)]
    fresh = [name for name in targets if name not in loaded]
    # A pooler that no head read was not saved (`Network`).
    mismatched = [name for name in fresh if name.startswith("backbone.") and not name.startswith("backbone.pooler.")]
    if mismatched:
        raise CheckpointError.of(
            "CHECKPOINT-SHAPE",
            f"{checkpoint.path} is of another model: {mismatched[0]} is missing there or has another shape",
            cause=f"{len(mismatched)} tensors of the backbone differ",
            fix=_rows_fix(mismatched, given) or "use the model settings that the checkpoint was made with",
        )
    copy_parts(given, {name: parts_of(targets[name], 0) for name in loaded})
    return loading_report(checkpoint.path, len(loaded), fresh, set(given) - set(loaded))


def _rows_fix(mismatched: Collection[str], given: Mapping[str, StoredTensor]) -> str:
    """The setting to change where only the number of embeddings differs, else ""."""
    name = "backbone.token_embedding.weight"
    if set(mismatched) != {name} or name not in given:
        return ""
    return f"model.num_embeddings={given[name].shape[0]}, as the checkpoint has"


def loading_report(source: Path, loaded: int, fresh: Collection[str], unused: Collection[str]) -> list[str]:
    """What `init_from` did, in sentences: how many of our tensors were loaded, which were not, and which of theirs."""
    sentences = [f"init_from: {loaded} of {loaded + len(fresh)} tensors loaded from {source}"]
    sentences += [f"init_from: starting fresh: {', '.join(sorted(fresh))}"] if fresh else []
    sentences += [f"init_from: not used: {', '.join(sorted(unused))}"] if unused else []
    return sentences
