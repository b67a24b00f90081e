"""Safetensors files: written piece by piece, from live tensors or from a copy of them, and read into live tensors.

A file is 8 bytes (the header's size), the header (JSON: name → dtype, shape, place), the tensors one after the other:
https://github.com/huggingface/safetensors. Nothing here holds a file whole. Of tensors that are split over ranks each
rank writes a file of its parts (`storage/shard_files.py`) and reads, from any number of files, what overlaps with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from bigtrain.distributed.shards import Part, parts_of
from bigtrain.errors import CheckpointError
from bigtrain.storage.boxes import Box
from bigtrain.storage.durable import PIECE_BYTES
from bigtrain.storage.shard_files import BOXES, read_boxes

_DTYPES = {  # in the order of the file: by size, so that every tensor is aligned to its own
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES.values())}


@dataclass(frozen=True)
class TensorFile:
    """The safetensors file of some tensors, as `write_new` takes it; the bytes that `safetensors.torch.save` makes.

    It has the values that the tensors have when it is written.
    """

    header: bytes
    tensors: list[Tensor]  # in the order of the file

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> TensorFile:
        """The file of these tensors, on any device, of any strides; `metadata` goes into its header."""
        entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        ordered, end = [], 0
        for name, tensor in _in_file_order(tensors):
            begin, end = end, end + tensor.nbytes
            entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
            ordered.append(tensor.detach())
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return cls(len(text).to_bytes(8, "little") + text, ordered)

    @classmethod
    def of_parts(cls, parts: Mapping[str, Sequence[Part]]) -> TensorFile:
        """The file of these parts of tensors, by the tensors' names."""
        tensors, boxes = {}, {}
        for name, held in parts.items():
            for number, part in enumerate(held):
                key = name if len(held) == 1 else f"{name}[{number}]"
                tensors[key] = part.values
                if key != name or part.box != Box.whole(part.shape):
                    boxes[key] = {"tensor": name, "shape": part.shape, "offsets": part.offsets}
        return cls.of(tensors, {BOXES: json.dumps(boxes, separators=(",", ":"))} if boxes else None)

    @property
    def data_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.header) + self.data_bytes

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes in order. Beside the tensors it holds one piece, and one tensor where that is not contiguous."""
        yield memoryview(self.header)
        for tensor in self.tensors:
            yield from _pieces(tensor)

    def copied(self, buffer: Tensor) -> TensorFile:
        """The same file, of a copy of its tensors in `buffer` (data_bytes,) uint8 on the host.

        From a GPU into pinned memory the copy is only begun: it is there when the GPU has come to it.
        """
        begin = 0
        for tensor in self.tensors:
            copy = buffer[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copy.copy_(tensor, non_blocking=True)
            begin += tensor.nbytes
        return TensorFile(self.header, [buffer])


def _in_file_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Names and tensors as they follow each other in a file."""
    return sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # a view may keep a stride of 2 for size 1
    for piece in flat.split(PIECE_BYTES // tensor.itemsize):
        yield memoryview(piece.cpu().view(torch.uint8).numpy())


@dataclass
class StoredTensor:
    """A tensor in files: its name, its dtype as safetensors has it, its whole shape, and where its boxes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    boxes: list[tuple[Path, str, Box]] = field(default_factory=list)  # of each: the file, its key there, its place


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """What these files hold, by name; only their headers are read. What can't be read is a CheckpointError."""
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        with _unreadable(path):
            for stored in read_boxes(path):
                tensor = StoredTensor(stored.tensor, stored.dtype, stored.shape)
                tensors.setdefault(stored.tensor, tensor).boxes.append((path, stored.key, stored.box))
    return tensors


@dataclass(frozen=True)
class WholeFile:
    """The safetensors file of stored tensors, whole, as `write_new` takes it: each is read when it is written."""

    stored: Mapping[str, StoredTensor]

    @cached_property
    def _layout(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype], device="meta")
            for name, tensor in self.stored.items()
        }

    def __len__(self) -> int:
        return len(TensorFile.of(self._layout))

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes in order. It holds one tensor."""
        yield memoryview(TensorFile.of(self._layout).header)
        for name, layout in _in_file_order(self._layout):
            whole = torch.empty_like(layout, device="cpu")
            copy_parts(self.stored, {name: parts_of(whole, 0)})
            yield from _pieces(whole)


def load_tensors(files: Sequence[Path], into: Mapping[str, Tensor]) -> None:
    """Copies safetensors files into live tensors of the same names, shapes and dtypes.

    Raises CheckpointError, before anything is copied, when the files hold other tensors.
    """
    stored = stored_tensors(files)
    if problems := _mismatches(stored, into):
        raise CheckpointError.of(
            "CHECKPOINT-SHAPE",
            f"{files[0]} does not fit this model: " + "; ".join(problems[:4]),
            cause=f"{len(problems)} tensors differ",
            fix="use the settings that the checkpoint was made with",
        )
    copy_parts(stored, {name: parts_of(target, 0) for name, target in into.items()})


@torch.no_grad()
def copy_parts(stored: Mapping[str, StoredTensor], into: Mapping[str, Sequence[Part]]) -> None:
    """Copies the stored tensors of these names into the parts of them that this rank has.

    Each file is opened once; of it this holds one piece at a time, what a box of it and a part have in common.
    """
    wanted: dict[Path, list[tuple[str, Box, Part, Box]]] = {}
    for name, part in ((name, part) for name, parts in into.items() for part in parts):
        missing = part.box.size
        for path, key, box in stored[name].boxes:
            if (common := box.overlap(part.box)) is not None:
                wanted.setdefault(path, []).append((key, box, part, common))
                missing -= common.size
        if missing:
            raise CheckpointError.of("CHECKPOINT-BROKEN", f"{name} is not whole in {stored[name].boxes[0][0]}")
    for path, pieces in wanted.items():
        with open_tensors(path) as file:
            for key, box, part, common in pieces:
                whole = common == box  # a slice of a tensor without dimensions is none
                piece = file.get_tensor(key) if whole else file.get_slice(key)[common.within(box)]
                part.values[common.within(part.box)].copy_(piece)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, open; what can't be read is a CheckpointError."""
    with _unreadable(path), safetensors.safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError.of("CHECKPOINT-BROKEN", f"{path} can't be read: {error}") from error


def _mismatches(stored: Mapping[str, StoredTensor], into: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in into if name not in stored]
    problems += [f"{name} is not expected" for name in sorted(stored.keys() - into.keys())]
    for name, target in into.items():
        if name in stored:
            shape, dtype = stored[name].shape, stored[name].dtype
            if shape != tuple(target.shape) or _DTYPES.get(dtype) != target.dtype:
                problems.append(f"{name} is {dtype} {shape}, expected {target.dtype} {tuple(target.shape)}")
    return problems
