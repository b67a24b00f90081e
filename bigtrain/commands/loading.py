"""From a checkpoint to a network and task, for the verbs that read one. It holds config, tokenizer and DataSpec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bigtrain.build import build_network
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import config_from_document
from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.distributed.world import World
from bigtrain.errors import CheckpointError, ConfigError, DataError, PluginMissing
from bigtrain.models.network import Network
from bigtrain.registry import TASKS
from bigtrain.storage.checkpoint import Checkpoint
from bigtrain.storage.finding import find_checkpoint
from bigtrain.storage.run_directory import find_latest_run, say_latest
from bigtrain.tasks.base import Task
from bigtrain.tracking.status_line import status_line
from bigtrain.training.machine import prepare_device
from bigtrain.training.snapshot import load_evaluated_weights


@dataclass
class Loaded:
    """A trained network with its task, settings, tokenizer and facts about its data."""

    checkpoint: Checkpoint
    config: RunConfig
    spec: DataSpec
    tokenizer: Tokenizer | None
    task: Task
    network: Network


def load(where: str, world: World, output_dir: str = "outputs") -> Loaded:
    """The checkpoint that `checkpoint=` means. Raises CheckpointError when it is missing, damaged or does not fit."""
    latest = find_latest_run(Path(output_dir))
    checkpoint = find_checkpoint(where, latest)
    if latest is not None and where in ("best", "latest") and checkpoint.path.is_relative_to(latest):
        say_latest(f"checkpoint={where}", latest, Path(output_dir))
    try:
        config = config_from_document(checkpoint.read_json("config.json"), str(checkpoint.path / "config.json"))
        spec = DataSpec.from_json(checkpoint.read_json("data_spec.json"))
        tokenizer = None
        if checkpoint.has("tokenizer.json"):
            tokenizer = tokenizer_from_json(checkpoint.read_json("tokenizer.json"))
    except PluginMissing:  # nothing is broken
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ConfigError, DataError) as error:
        raise CheckpointError.of(
            "CHECKPOINT-BROKEN",
            f"{checkpoint.path} can't be understood: {error}",
            fix="it may be of another version of bigtrain",
        ) from error
    task: Task = TASKS.entry_of(config.task).load()(config.task, spec, tokenizer)
    prepare_device(config.trainer, world.device)
    with status_line(f"Loading {checkpoint.path}", ""):
        network = build_network(config, task, spec, world.device, draw=False)
        load_evaluated_weights(network, checkpoint)
    return Loaded(checkpoint, config, spec, tokenizer, task, network)
