"""A file of tensors that several ranks have written, each its own: `model.00003-of-00008.safetensors`.

Such a shard is a safetensors file of boxes of tensors. Where a box is not its whole tensor, the header's `__metadata__`
says under `boxes`, as JSON: {key: {"tensor": name, "shape": of the whole tensor, "offsets": of the box in it}}; any
other key is the name of a tensor that is whole there. The boxes of all shards hold every element exactly once.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.errors import MachineError
from bigtrain.storage import durable
from bigtrain.storage.boxes import Box, tiling_problem
from bigtrain.storage.together import LeftOff

_SHARD = re.compile(r"(.+)\.(\d{5})-of-(\d{5})(\.safetensors)")
_HEADER_BYTES = 100 << 20  # what the safetensors library allows
BOXES = "boxes"  # key of a header's metadata


@dataclass(frozen=True)
class StoredBox:
    """A box of a tensor in a file."""

    key: str  # its name in the file
    tensor: str  # the tensor's name
    dtype: str  # as safetensors has it
    shape: tuple[int, ...]  # of the whole tensor
    box: Box


def is_shard(name: str) -> bool:
    """Whether a file of this name is one of several of the same tensors."""
    return _SHARD.fullmatch(name) is not None


def shard_names(names: Sequence[Iterable[str]]) -> list[dict[str, str]]:
    """Of the files that each rank writes, by rank: name → its name on disk; a file of one rank alone keeps its own."""
    writers: dict[str, list[int]] = {}
    for rank, files in enumerate(names):
        for name in files:
            writers.setdefault(name, []).append(rank)
    on_disk: list[dict[str, str]] = [{} for _ in names]
    for name, ranks in writers.items():
        stem, _, ending = name.rpartition(".")
        for number, rank in enumerate(ranks, 1):
            on_disk[rank][name] = name if len(ranks) == 1 else f"{stem}.{number:05d}-of-{len(ranks):05d}.{ending}"
    return on_disk


def files_of(name: str, present: Iterable[str]) -> list[str]:
    """The files among those `present` that hold what the file `name` would hold: its shards in order, or itself."""
    shards = sorted(file for file in present if (match := _SHARD.fullmatch(file)) and match[1] + match[4] == name)
    return shards or [name]


def names_of(present: Iterable[str]) -> list[str]:
    """The names of files, those of shards once: as one rank alone would have written them."""
    matches = ((file, _SHARD.fullmatch(file)) for file in present)
    return list(dict.fromkeys(match[1] + match[4] if match else file for file, match in matches))


def problems_of_shards(folder: Path, present: Collection[str], share: slice = slice(None)) -> Iterator[str]:
    """What is wrong with the shards in a folder, in words. Of several files in shards, only the `share` is read."""
    groups: dict[str, list[str]] = {}
    for file in sorted(present):
        if match := _SHARD.fullmatch(file):
            groups.setdefault(match[1] + match[4], []).append(file)
    for name in list(groups)[share]:
        if name in present:
            yield f"{name} is there whole and in shards"
        yield from _problems(folder, name, groups[name])


def _problems(folder: Path, name: str, files: list[str]) -> Iterator[str]:
    stem, _, ending = name.rpartition(".")
    expected = [f"{stem}.{number:05d}-of-{len(files):05d}.{ending}" for number in range(1, len(files) + 1)]
    if files != expected:
        yield f"its shards of {name} are not 1 to {len(files)} of {len(files)}: {', '.join(files[:4])}"
        return
    boxes: dict[str, list[StoredBox]] = {}
    for file in files:
        try:
            for stored in read_boxes(folder / file):
                boxes.setdefault(stored.tensor, []).append(stored)
        except (OSError, ValueError) as error:
            yield f"{file}: {error}"
            return
    for tensor, parts in boxes.items():
        if len({(part.dtype, part.shape) for part in parts}) > 1:
            yield f"{name}: {tensor} has parts of several shapes or types"
        elif problem := tiling_problem(parts[0].shape, [part.box for part in parts]):
            yield f"{name}: {tensor}: {problem}"


def read_boxes(file: Path) -> list[StoredBox]:
    """What the header of a safetensors file says that it holds. Raises OSError, or ValueError where it is none."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(_HEADER_BYTES, file.stat().st_size):
            raise ValueError("it has no header")
        text = opened.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        boxes = json.loads(metadata.get(BOXES, "{}"))
        if not boxes.keys() <= header.keys():
            raise ValueError("it lacks a part that it describes")
        return [_stored(key, entry, boxes.get(key)) for key, entry in header.items()]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header can't be understood: {type(error).__name__}: {error}") from error


def _stored(key: str, entry: Mapping[str, Any], described: Mapping[str, Any] | None) -> StoredBox:
    shape, dtype = _numbers(entry["shape"]), str(entry["dtype"])
    if described is None:
        return StoredBox(key, key, dtype, shape, Box.whole(shape))
    whole, offsets = _numbers(described["shape"]), _numbers(described["offsets"])
    if not len(whole) == len(offsets) == len(shape):
        raise ValueError(f"{key}: shape {whole}, offsets {offsets} and its own shape {shape} do not go together")
    return StoredBox(key, str(described["tensor"]), dtype, whole, Box(offsets, shape))


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values!r} is no list of sizes")
    return tuple(values)


@dataclass(frozen=True)
class Stoppable:
    """A file's content that is written to its end only while no rank has failed."""

    content: durable.Content
    stop: threading.Event

    def __len__(self) -> int:
        return len(self.content)

    def pieces(self) -> Iterator[memoryview]:
        """Its pieces. Raises LeftOff where another rank has failed."""
        pieces = [memoryview(self.content)] if isinstance(self.content, bytes) else self.content.pieces()
        for piece in pieces:
            if self.stop.is_set():
                raise LeftOff
            yield piece


def require_all_here(folder: Path, written: list[dict[str, Any]]) -> None:
    """Raises MachineError where a file that another rank has written is not in rank 0's folder."""
    for rank, files in enumerate(written):
        for name, entry in files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise MachineError.of(
                    "RANK-FOLDER",
                    f"rank {rank} has written {name}, but rank 0 does not find it in {folder}",
                    cause="ranks share one run directory, on a file system that all of them see",
                    fix="give output_dir= a full path on a shared file system",
                )
