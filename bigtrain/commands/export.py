"""`bigtrain export`: the weights that a checkpoint's run evaluates, as a folder that another library loads."""

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
from bigtrain.tracking.console import say


def run(composed: Composed) -> int:
    """Writes the folder. Raises BigtrainError for a model that the format can't represent."""
    config: ExportConfig = composed.config
    loaded = load(config.checkpoint, lone_world("0"))
    files, left_out = folder_files(loaded.network, loaded.config.model, loaded.spec, loaded.tokenizer)
    folder = Path(config.path).expanduser().absolute()
    write_folder(folder, files)
    for name, content in files.items():
        say(f"{folder / name}  {len(content):,} bytes")
    for sentence in left_out:
        say(sentence)
    return ExitCode.OK


def write_folder(folder: Path, files: Mapping[str, durable.Content]) -> None:
    """Writes all files or none. Raises MachineError for a folder that is not empty or can't be written."""
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    with durable.disk_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise MachineError.of(
                "EXPORT-EXISTS",
                f"path={folder} is there already, and not empty",
                fix="name a folder that is not there yet, or remove it",
            )
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
