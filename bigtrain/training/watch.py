"""Looking closely at single steps, on request: a profile of a few, or the module where a value stops being finite.

Both only watch; with neither, a step costs nothing more.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigtrain.config.run import TrainerConfig
from bigtrain.errors import NumericsError
from bigtrain.tracking.tracker import Tracker
from bigtrain.training import durable

WatchStep = Callable[[int], AbstractContextManager[None]]

WARMUP_STEPS = 5  # kernels are chosen and caches filled: not profiled
PROFILED_STEPS = 5
TABLE_ROWS = 25


def no_watch(step: int) -> AbstractContextManager[None]:
    """Watches nothing."""
    return nullcontext()


def watch_for(
    settings: TrainerConfig, module: nn.Module, run_dir: Path, tracker: Tracker, first_step: int
) -> WatchStep:
    """What the settings ask for."""
    watches: list[WatchStep] = []
    if settings.profile:
        watches.append(Profile(run_dir / "profile", tracker, first_step).watch)
    if settings.find_nonfinite:
        check_outputs(module)
        watches.append(explain_anomaly)
    if not watches:
        return no_watch

    @contextmanager
    def watch_all(step: int) -> Iterator[None]:
        with ExitStack() as stack:
            for watch in watches:
                stack.enter_context(watch(step))
            yield

    return watch_all


class Profile:
    """Profiles some steps after the first ones: a trace for Perfetto, and a table, which TensorBoard shows as text."""

    def __init__(self, folder: Path, tracker: Tracker, first_step: int):
        self._folder = folder
        self._tracker = tracker
        self._steps = range(first_step + WARMUP_STEPS, first_step + WARMUP_STEPS + PROFILED_STEPS)
        self._profiler: Any = None

    @contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Around each step."""
        if step == self._steps.start:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True)
            self._profiler.start()
        yield
        if self._profiler is not None and step == self._steps[-1]:
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            self._write(profiler, step)

    def _write(self, profiler: Any, step: int) -> None:
        on_gpu = torch.cuda.is_available()
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=TABLE_ROWS)
        with durable.disk_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(self._folder / "trace.json"))
            (self._folder / "table.txt").write_text(table)
        self._tracker.text("perf/profile", f"```\n{table}\n```", step)
        shown = f"{self._steps.start} to {self._steps[-1]}"
        self._tracker.note(f"profile of steps {shown}: {self._folder}/table.txt, trace.json (open in ui.perfetto.dev)")


@contextmanager
def explain_anomaly(step: int) -> Iterator[None]:
    """A step in which torch's anomaly detection finds a NaN in the backward pass ends with a sentence about it."""
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
    """From now on the first module whose output is not finite ends the run with its name. Waits at every module."""

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
