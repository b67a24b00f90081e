"""The memory of a step, by running it on fake tensors, which have shapes and no values: storages followed one by one.

A dispatch mode follows every storage from the operation that makes it until nothing refers to it, so autograd itself
decides what is kept for the backward pass. What a kernel allocates and frees inside itself is not seen, but for the
two kernels of `_inside`, whose share is large.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from bigtrain.nn.cpu import is_cpu
from bigtrain.planning.changes import ACTIVATIONS, COPIES, WEIGHTS

aten = torch.ops.aten


@dataclass
class Trace:
    """What a step holds: the largest total of each phase, as part → bytes; and what its operations move."""

    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    traffic: float = 0.0  # bytes that operations read and write; views move nothing

    def peak(self) -> dict[str, float]:
        """Of the phase with the largest total."""
        return max(self.peaks.values(), key=lambda parts: sum(parts.values()))


class StorageWatch(TorchDispatchMode):
    """Follows the storages of tensors given to `hold`, and those made inside its `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._phase, self._part = "", ACTIVATIONS
        self._totals: dict[str, float] = {}
        self._live: dict[int, tuple[str, int]] = {}  # id of a storage → its part and bytes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the decorator that tells the compiler to skip this mode imports the compiler

    def enter(self, phase: str, part: str) -> None:
        """From now on operations belong to this phase, and the storages that they make to this part."""
        self._phase, self._part = phase, part
        self._note()

    def hold(self, tensors: Iterable[Tensor], part: str) -> None:
        """Counts the tensors' storages to a part from now on."""
        for tensor in tensors:
            key = id(tensor.untyped_storage())
            if key in self._live:
                before, size = self._live[key]
                self._totals[before] -= size
                self._totals[part] = self._totals.get(part, 0) + size
                self._live[key] = part, size
            else:
                self._follow(tensor, part)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors_in(args)
        if not func._schema.returns:  # in place, on lists: the optimizer's kernels, of which some need values
            self.trace.traffic += 2 * sum(tensor.nbytes for tensor in given)
            return None
        result = func(*args, **(kwargs or {}))
        if func is aten.mkldnn_rnn_layer.default:
            result = (*result[:3], result[3].new_empty(_recurrence_workspace(*args), dtype=torch.uint8))
        part = COPIES if func is aten._to_copy.default and self._part_of(given[0]) == WEIGHTS else self._part
        made = [tensor for tensor in tensors_in(result) if self._follow(tensor, part)]
        if made or func._schema.is_mutable:
            self.trace.traffic += sum(tensor.nbytes for tensor in (*made, *given))
        if inside := _inside(func, args):
            self._note(inside)
        return result

    def live(self, part: str) -> float:
        """Bytes of a part that are held now."""
        return self._totals.get(part, 0)

    def _part_of(self, tensor: Tensor) -> str:
        return self._live.get(id(tensor.untyped_storage()), ("", 0))[0]

    def _follow(self, tensor: Tensor, part: str) -> bool:
        """Whether the tensor's storage is new."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._live or not size:
            return False
        self._live[key] = part, size
        self._totals[part] = self._totals.get(part, 0) + size
        weakref.finalize(storage, self._forget, key).atexit = False
        self._note()
        return True

    def _forget(self, key: int) -> None:
        part, size = self._live.pop(key)
        self._totals[part] -= size

    def _note(self, inside: int = 0) -> None:
        peak = self.trace.peaks.get(self._phase)
        if peak is None or sum(self._totals.values()) + inside > sum(peak.values()):
            peak = self.trace.peaks[self._phase] = dict(self._totals)
            peak[self._part] = peak.get(self._part, 0) + inside


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among an operation's arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def _inside(func: Callable[..., Any], args: Any) -> int:
    """Bytes that a kernel allocates besides its results, and frees again.

    `logsumexp`: the exponentials. On a CPU, pooling's backward pass: two copies of its indices; oneDNN's recurrence:
    the gates, and the weights in another layout (in the backward pass in two).
    """
    if func is aten.logsumexp.default:
        return int(args[0].nbytes)
    if func is aten.max_pool2d_with_indices_backward.default and is_cpu(args[0].device):
        return 2 * int(args[7].nbytes)
    layouts = {aten.mkldnn_rnn_layer.default: 1, aten.mkldnn_rnn_layer_backward.default: 2}.get(func, 0)
    if not layouts:
        return 0
    x, input_weight, hidden_weight = args[:3]
    gates = x.shape[0] * x.shape[1] * hidden_weight.shape[0] * x.element_size()
    return int(gates + layouts * (input_weight.nbytes + hidden_weight.nbytes))


def _recurrence_workspace(x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *_: Any) -> int:
    """Bytes that oneDNN's LSTM keeps of (T, B, E) for its backward pass: B · (T · a + b) + c, by asking it thrice."""
    length, batch, inputs = x.shape
    a, b, c = _workspace_terms(inputs, hidden_weight.shape[1])
    return batch * (length * a + b) + c


@cache
def _workspace_terms(inputs: int, hidden: int) -> tuple[int, int, int]:
    def asked(length: int, batch: int) -> int:
        sizes = [(4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
        weights = [torch.zeros(size) for size in sizes]
        state = torch.zeros(batch, hidden)
        x = torch.zeros(length, batch, inputs)
        settings: tuple[Any, ...] = (False, [], 2, hidden, 1, True, False, False, True)
        return int(aten.mkldnn_rnn_layer(x, *weights, state, state, *settings)[3].nbytes)

    with _disable_current_modes(), torch.enable_grad():
        small, longer, more = asked(8, 16), asked(16, 16), asked(8, 32)  # parts of fewer rows are laid out otherwise
    per_row = (more - small) // 16
    per_position = (longer - small) // (8 * 16)
    return per_position, per_row - 8 * per_position, small - 16 * per_row
