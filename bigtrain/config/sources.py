"""Where configs come from: folders of YAML files, searched in order, and the settings classes below `schema/`.

A path here is that of a config inside its folder, without the ending: `model/cnn`. A group is a folder of configs.
Every file is checked (yaml_files.py) before its values are read.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from bigtrain.config.schema import settings_classes
from bigtrain.config.yaml_files import read_config
from bigtrain.errors import ConfigError

OWN = "main"
"""The provider of the configs that ship with bigtrain (Hydra's word for the first folder)."""


class Folder(NamedTuple):
    """A folder that is searched, and who provides it."""

    provider: str
    path: Path


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """The content of one config.

    `values` holds no defaults list; that is in `defaults`, as written. `package` is that of the file's header, None
    where it has none. `folder` is None for a settings class.
    """

    path: str
    values: Any
    defaults: list[Any] = dataclasses.field(default_factory=list)
    package: str | None = None
    folder: Folder | None = None

    @property
    def name(self) -> str:
        """The file, for people."""
        assert self.folder is not None
        return f"{'configs' if self.folder.provider == OWN else self.folder.path}/{self.path}.yaml"

    def entries(self) -> Iterator[tuple[str, Any]]:
        """(group, choice) of each line of the defaults list, groups as written; ("", name) where it has no group."""
        for item in self.defaults:
            if isinstance(item, dict):
                yield from ((str(key).split(" ")[-1].partition("@")[0], choice) for key, choice in item.items())
            else:
                yield "", item

    def placed(self, package: str | None) -> Any:
        """The values as a tree in which they stand at `package`, a dotted key; None or "": at the root."""
        if not package:
            return self.values
        tree = OmegaConf.create()
        OmegaConf.update(tree, package, self.values, merge=False)
        return tree


class Sources:
    """The configs of some folders, the first folder that has a path wins, and the settings classes."""

    def __init__(self, folders: Sequence[Folder]):
        self.folders = folders
        self.loaded: dict[str, ConfigFile] = {}

    def has_config(self, path: str) -> bool:
        """Whether there is a config of this path."""
        return path in settings_classes() or self._folder_of(path) is not None

    def has_group(self, group: str) -> bool:
        """Whether there is a group of this path."""
        return any(_is_folder(folder.path, group) for folder in self.folders) or any(
            path.startswith(f"{group}/") for path in settings_classes()
        )

    def configs(self, group: str) -> list[str]:
        """The names of the configs in a group, sorted; groups inside it left out."""
        return self._names(group, lambda entry: entry.is_file() and entry.name.endswith(".yaml"))

    def groups(self, group: str) -> list[str]:
        """The names of the groups in a group, sorted."""
        return self._names(group, lambda entry: entry.is_dir() and entry.name != "__pycache__")

    def _names(self, group: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        names = set()
        for folder in self.folders:
            if _is_folder(folder.path, group):
                with os.scandir(folder.path / group) as entries:
                    names |= {entry.name.removesuffix(".yaml") for entry in entries if wanted(entry)}
        return sorted(names)

    def load(self, path: str) -> ConfigFile:
        """The config of this path. Raises ConfigError for a file that breaks a rule, KeyError where there is none."""
        path = path.removesuffix(".yaml")
        if path not in self.loaded:
            self.loaded[path] = self._read(path)
        return self.loaded[path]

    def _read(self, path: str) -> ConfigFile:
        if settings := settings_classes().get(path):
            # A command's tree (schema/run) stands at the root, the settings of a part (schema/model/cnn) at its group.
            return ConfigFile(path, _structured(settings), package="_global_" if path.count("/") == 1 else None)
        folder = self._folder_of(path)
        if folder is None:
            raise KeyError(path)
        if folder.provider != OWN:
            return _read_file(folder, path)
        state = (folder.path / f"{path}.yaml").stat()
        return _read_own(folder, path, (state.st_mtime_ns, state.st_size))

    def _folder_of(self, path: str) -> Folder | None:
        return next((folder for folder in self.folders if _is_config(folder.path, path)), None)

    def refuse_hidden(self, file: ConfigFile) -> None:
        """A file that has the name of one of ours, or of a plug-in's, would be ignored, so it is an error."""
        for folder in self.folders:
            if folder != file.folder and folder.provider != OWN and _is_config(folder.path, file.path):
                first = file.folder.provider if file.folder else OWN
                owner = "bigtrain" if first == OWN else first
                own = folder.path / f"{file.path}.yaml"
                message = f"{own} has the name of a config that ships with {owner}, and would be ignored"
                raise ConfigError.of("CONFIG-FILE", message, fix="rename it, and choose it by its new name")


def _read_file(folder: Folder, path: str) -> ConfigFile:
    values, package = read_config(folder.path / f"{path}.yaml")
    defaults: Any = []
    if isinstance(values, DictConfig) and "defaults" in values:
        defaults = OmegaConf.to_container(values.pop("defaults"), resolve=False)
    return ConfigFile(path, values, defaults, package, folder)


@functools.lru_cache(maxsize=1000)
def _read_own(folder: Folder, path: str, version: tuple[int, int]) -> ConfigFile:
    """A config of ours is read once in a process, as long as it stays the same: to read takes longer than to compose.
    `version`: the time of its last change, its size.
    """
    return _read_file(folder, path)


@functools.cache
def _structured(settings: type) -> Any:
    """The typed node of a settings class; whoever merges it copies it."""
    return OmegaConf.structured(settings)


def _is_config(folder: Path, path: str) -> bool:
    return os.path.isfile(folder / f"{path.removesuffix('.yaml')}.yaml")  # noqa: PTH113 (takes any text)


def _is_folder(folder: Path, group: str) -> bool:
    return os.path.isdir(folder / group)  # noqa: PTH112 (takes any text)
