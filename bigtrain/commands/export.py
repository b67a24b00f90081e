"""`bigtrain export`: a checkpoint as a folder that another library loads, or with its shards put together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bigtrain.commands.loading import load
from bigtrain.config.compose import Composed
from bigtrain.config.run import ExportConfig
from bigtrain.distributed.world import lone_world
from bigtrain.errors import ExitCode, MachineError
from bigtrain.interop.hugging_face import folder_files
from bigtrain.storage import durable
from bigtrain.storage.checkpoint import CheckpointStore
from bigtrain.storage.finding import find_checkpoint
from bigtrain.storage.run_directory import find_latest_run
from bigtrain.tracking.console import say
from bigtrain.tracking.status_line import status_line
from bigtrain.training.snapshot import whole_files


def run(composed: Composed) -> int:
    """Writes the folder. Raises BigtrainError for a model that the format can't represent."""
    config: ExportConfig = composed.config
    folder = Path(config.path).expanduser().absolute()
    if config.format == "checkpoint":
        return _put_together(config, folder)
    loaded = load(config.checkpoint, lone_world("0"))
    files, left_out = folder_files(loaded.network, loaded.config.model, loaded.spec, loaded.tokenizer)
    write_folder(folder, files)
    for name, content in files.items():
        say(f"{folder / name}  {len(content):,} bytes")
    for sentence in left_out:
        say(sentence)
    return ExitCode.OK


def _put_together(config: ExportConfig, folder: Path) -> int:
    """Writes `folder/checkpoints/step-…`, which holds the same with every tensor whole, tensor by tensor."""
    checkpoint = find_checkpoint(config.checkpoint, find_latest_run(Path("outputs")))
    _require_empty(folder)
    store = CheckpointStore(folder / "checkpoints")
    store.prepare()
    with status_line(f"Writing {folder}", ""):
        path = store.save(checkpoint.step, whole_files(checkpoint), checkpoint.facts())
    for file in sorted(path.iterdir()):
        say(f"{file}  {file.stat().st_size:,} bytes")
    return ExitCode.OK


def _require_empty(folder: Path) -> None:
    """Raises MachineError for a folder that is not empty."""
    with durable.disk_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise MachineError.of(
                "EXPORT-EXISTS",
                f"path={folder} is there already, and not empty",
                fix="name a folder that is not there yet, or remove it",
            )


def write_folder(folder: Path, files: Mapping[str, durable.Content]) -> None:
    """Writes all files or none. Raises MachineError for a folder that is not empty or can't be written."""
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    _require_empty(folder)
    with durable.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        durable.require_space(folder.parent, sum(map(len, files.values())))
        try:
            temporary.mkdir()
            for name, content in files.items():
                durable.write_new(temporary / name, content)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        durable.sync_folder(folder.parent)
