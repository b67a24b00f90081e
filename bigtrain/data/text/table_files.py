"""Which tables the settings of labelled texts mean: files that are named, or those of a folder, by their names."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from bigtrain.data.paths import as_path, is_hidden, require_target
from bigtrain.data.tables.rows import OTHER_SUFFIXES, SUFFIXES
from bigtrain.data.text.config import TextClassificationConfig
from bigtrain.data.text.text_files import unreadable_file
from bigtrain.errors import DataError

_NAMES = {
    "train": ("train",),
    "val": ("dev", "val", "valid", "validation", "dev_matched"),  # the last, and test_matched: MNLI's in GLUE
    "test": ("test", "test_matched"),
}
_SHARD = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00001.parquet, as the Hugging Face hub has them
_SHOWN = 5  # names listed in a message


def files_of_splits(config: TextClassificationConfig, needs_train: bool) -> dict[str, Path]:
    """The file of each split; "path" for one that is still to be divided. Raises DataError for what is not there.

    `needs_train`: a checkpoint's tokenizer and labels can do without training texts; nothing else can.
    """
    if not config.path:
        given = {split: getattr(config, f"{split}_path") for split in _NAMES}
        files = {split: _there(path) for split, path in given.items() if path}
    else:
        place = _there(config.path)
        if not place.is_dir():
            return {"path": place}
        files = _in_folder(place)
    if "train" not in files and (needs_train or not files):
        fix = "name the files so, or give them: data.path=null data.train_path=... data.val_path=..."
        inner = sorted({path.parent for path in Path(config.path or ".").expanduser().glob("*/train.*")})
        if config.path and inner:
            fix = f"folders in it have such files: {' or '.join(f'data.path={path}' for path in inner[:_SHOWN])}"
        raise DataError.of(
            "DATA-MISSING",
            f"data.path={config.path} has no file for train",
            cause=f"a directory has train.*, perhaps dev.* and test.*, of {', '.join(SUFFIXES)}",
            fix=fix,
        )
    return files


def _in_folder(folder: Path) -> dict[str, Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if not is_hidden(path.name) and not path.is_dir())
    except OSError as error:
        raise unreadable_file(folder, error) from error
    found: dict[str, Path] = {}
    unused = {path for path in paths if path.name.lower().endswith(SUFFIXES)}
    for split, stems in _NAMES.items():
        named = [path for path in paths if _SHARD.sub("", path.name.lower().split(".")[0]) in stems]
        tables = [path for path in named if path.name.lower().endswith(SUFFIXES)] or [
            path for path in named if "".join(path.suffixes).lower().removesuffix(".gz") in OTHER_SUFFIXES
        ]
        unused -= set(tables)
        for path in tables:
            require_target(path)
        different = {os.path.realpath(path): path for path in reversed(tables)}  # a file under two names is one
        if len(different) > 1:
            raise DataError.of(
                "DATA-AMBIGUOUS",
                f"{folder} has more than one file for {split}: {', '.join(path.name for path in tables)}",
                fix="give the ones you mean: data.path=null data.train_path=... data.val_path=... data.test_path=...",
            )
        if different:
            found[split] = next(iter(different.values()))
    if found and unused:
        names = ", ".join(path.name for path in sorted(unused)[:_SHOWN])
        warnings.warn(f"{folder}: {len(unused)} more table(s) belong to no split by their names: {names}", stacklevel=4)
    return found


def _there(path: str) -> Path:
    place = as_path(path)
    require_target(place)
    return place
