"""Safetensors files: written piece by piece, from live tensors or from a copy of them, and read into live tensors.

A file is 8 bytes (the header's size), the header (JSON: name → dtype, shape, place), the tensors one after the other:
https://github.com/huggingface/safetensors. Nothing here holds a file whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from bigtrain.errors import CheckpointError
from bigtrain.storage.durable import PIECE_BYTES

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
    def of(cls, tensors: Mapping[str, Tensor]) -> TensorFile:
        """The file of these tensors, on any device, of any strides."""
        entries, ordered, end = {}, [], 0
        for name, tensor in sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0])):
            begin, end = end, end + tensor.nbytes
            entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
            ordered.append(tensor.detach())
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return cls(len(text).to_bytes(8, "little") + text, ordered)

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
            flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # a view may keep a stride of 2 for size 1
            for piece in flat.split(PIECE_BYTES // tensor.itemsize):
                yield memoryview(piece.cpu().view(torch.uint8).numpy())

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


def load_tensors(path: Path, into: Mapping[str, Tensor]) -> None:
    """Copies a safetensors file into live tensors of the same names, shapes and dtypes, one by one.

    Raises CheckpointError, before anything is copied, when the file holds other tensors.
    """
    with open_tensors(path) as file, torch.no_grad():
        problems = _mismatches(file, into)
        if problems:
            raise CheckpointError.of(
                "CHECKPOINT-SHAPE",
                f"{path} does not fit this model: " + "; ".join(problems[:4]),
                cause=f"{len(problems)} tensors differ",
                fix="use the settings that the checkpoint was made with",
            )
        for name, target in into.items():
            target.copy_(file.get_tensor(name))


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, open; what can't be read is a CheckpointError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError.of("CHECKPOINT-BROKEN", f"{path} can't be read: {error}") from error


def _mismatches(file: Any, into: Mapping[str, Tensor]) -> list[str]:
    names = set(file.keys())
    problems = [f"{name} is missing" for name in into if name not in names]
    problems += [f"{name} is not expected" for name in sorted(names - set(into))]
    for name, target in into.items():
        if name in names:
            entry = file.get_slice(name)
            shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
            if shape != tuple(target.shape) or _DTYPES.get(dtype) != target.dtype:
                problems.append(f"{name} is {dtype} {shape}, expected {target.dtype} {tuple(target.shape)}")
    return problems
