"""Diagnosis of single steps, on request: a profile of a few, or the module where a value stops being finite."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from bigtrain.errors import NumericsError
from bigtrain.tracking.memory import allocated_peak
from bigtrain.tracking.tracker import Tracker

WARMUP_STEPS = 5  # kernels are chosen and caches filled: not profiled
PROFILED_STEPS = 5
TABLE_ROWS = 25
OPTIMIZER_SPAN = "optimizer step"  # what the trainer calls the optimizer's part of a step


class Watch:
    """The context of each step: with a profile, a search for non-finite values, both, or neither."""

    def __init__(self, profile: Profile | None = None, searched: nn.Module | None = None):
        """`searched`: the module in which to find the first non-finite value."""
        self._profile = profile
        self._searches = searched is not None
        if searched is not None:
            check_outputs(searched)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around step `number`."""
        with ExitStack() as stack:
            if self._searches:
                stack.enter_context(explain_anomaly(number))
            if self._profile is not None:
                stack.enter_context(self._profile.around(number))
            yield

    @property
    def allocated_peak(self) -> int | None:
        """Host memory in the profiled steps, above what stood before them; None without a profile."""
        return None if self._profile is None else self._profile.allocated_peak

    def close(self) -> None:
        """Call after the last step, also when training failed."""
        if self._profile is not None:
            self._profile.close()


class Profile:
    """Profiles 5 steps after 5 for warm-up: a trace for Perfetto, and a table, which TensorBoard shows as text."""

    def __init__(self, folder: Path, tracker: Tracker, first_step: int):
        self._folder = folder
        self._tracker = tracker
        self._steps = range(first_step + WARMUP_STEPS, first_step + WARMUP_STEPS + PROFILED_STEPS)
        self._profiler: Any = None
        self.allocated_peak: int | None = None  # bytes; see `tracking/memory.py`
        self._last = first_step

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """The context of a step: starts the profiler before the first profiled step, and closes it after the last."""
        if step == self._steps.start:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True)
            self._profiler.start()
        if self._profiler is not None:
            self._last = step
        yield
        if step == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Writes what was profiled, if anything was; a failure is a warning, and training continues."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        try:
            profiler.stop()  # one that is not stopped crashes the process at its end
            self.allocated_peak = allocated_peak(profiler)
            self._write(profiler)
        except Exception as error:
            self._tracker.note(f"the profile is lost, training goes on: {type(error).__name__}: {error}", True)

    def _write(self, profiler: Any) -> None:
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        averages = profiler.key_averages()
        table = averages.table(sort_by=order, row_limit=TABLE_ROWS)
        self._folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / "trace.json"))
        (self._folder / "table.txt").write_text(table)
        self._tracker.text("perf/profile", f"```\n{table}\n```", self._last)
        shown = f"{self._steps.start} to {self._last}"
        share = optimizer_share(averages)
        cost = "" if share is None else f"; the optimizer takes {share:.1%} of a step"
        files = f"{self._folder}/table.txt, trace.json (open in ui.perfetto.dev)"
        self._tracker.note(f"profile of steps {shown}: {files}{cost}")


def optimizer_share(averages: Any) -> float | None:
    """The optimizer's share of the time in profiled operations: of kernels where there are any, else on the CPU. None
    where the span is missing, as in steps that are replayed.
    """
    span = next((one for one in averages if one.key == OPTIMIZER_SPAN and one.device_type == DeviceType.CPU), None)
    if span is None:
        return None
    kernels = sum(one.self_device_time_total for one in averages if one.device_type != DeviceType.CPU)
    if kernels:
        annotated = sum(one.self_device_time_total for one in averages if one.is_user_annotation)
        return float(span.device_time_total / (kernels - annotated))
    return float(span.cpu_time_total / sum(one.self_cpu_time_total for one in averages))


@contextmanager
def explain_anomaly(step: int) -> Iterator[None]:
    """Raises NumericsError, with the operation, if torch's anomaly detection finds a NaN in the backward pass."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly(check_nan=True):
                yield
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            raise NumericsError.of(
                "LOSS-NONFINITE",
                f"a gradient is not finite at step {step}: {str(error).splitlines()[0]}",
                cause=_line_of_forward(" ".join(str(warning.message) for warning in told)),
                fix="every output of the forward pass was finite: look for roots, logarithms and divisions there",
            ) from error


def _line_of_forward(traceback: str) -> str:
    """The innermost line outside PyTorch of the forward pass that anomaly detection quotes."""
    places = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', traceback)
    ours = [place for place in places if "/torch/" not in place[0]]
    return "{}, line {}: {}".format(*ours[-1]) if ours else "the backward pass"


def check_outputs(module: nn.Module) -> None:
    """Adds hooks that raise NumericsError with the name of the first module whose output is not finite.

    Each hook waits for the device.
    """

    def check(name: str, part: nn.Module, output: Any) -> None:
        for value in _tensors(output):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).sum())
                raise NumericsError.of(
                    "LOSS-NONFINITE",
                    f"the output of {name or 'the model'} ({type(part).__name__}) is not finite",
                    cause=f"{bad} of {value.numel()} values, shape {tuple(value.shape)}",
                    fix="its inputs were finite: look at that module, its weights and its number format",
                )

    for name, part in module.named_modules():
        part.register_forward_hook(lambda part, inputs, output, name=name: check(name, part, output))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
