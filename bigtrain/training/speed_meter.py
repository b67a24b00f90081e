"""Throughput since the last logged row, from the seconds that the loop counts as training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bigtrain.tracking.tracker import Row
from bigtrain.training.cadence import WorkUnits


@dataclass(frozen=True)
class Throughput:
    """What a step works through, over all ranks, and what their devices can do."""

    samples_per_step: float  # where batches differ, on average
    tokens_per_step: float | None  # None where samples have no tokens
    flops_per_sample: float  # forward and backward
    peak_flops: float | None  # FLOP/s of the best matrix product measured, or None where it was not measured

    @classmethod
    def of(cls, units: WorkUnits, flops_per_sample: float, peak_flops: float | None) -> Throughput:
        """From what turns this run's durations into steps."""
        tokens = None if units.sample_tokens is None else units.sample_tokens * units.batch_size
        return cls(units.batch_size, tokens, flops_per_sample, peak_flops)

    def share_of_peak(self, samples_per_second: float) -> float | None:
        """Share of the peak at this speed, at most 1: a step may be faster than the fastest product measured."""
        if not self.peak_flops:
            return None
        return min(1.0, samples_per_second * self.flops_per_sample / self.peak_flops)

    def work(self, steps: int) -> Row:
        """Samples, and tokens where there are any, of this many steps."""
        row: Row = {"samples": round(steps * self.samples_per_step)}
        if self.tokens_per_step is not None:
            row["tokens"] = round(steps * self.tokens_per_step)
        return row


class SpeedMeter:
    """Measures from one logged row to the next; evaluation and checkpoints are left out, as no clock runs then."""

    def __init__(self, throughput: Throughput, step: int, train_seconds: float):
        self._throughput = throughput
        self._step, self._train_seconds = step, train_seconds  # at the last row
        self._data_seconds = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts as time in which the step waited for its batch."""
        started = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - started

    def read(self, step: int, train_seconds: float) -> Row:
        """Columns of a row: the speed since the last reading; none where no time has passed."""
        steps, seconds, data_seconds = step - self._step, train_seconds - self._train_seconds, self._data_seconds
        self._step, self._train_seconds, self._data_seconds = step, train_seconds, 0.0
        if steps == 0 or seconds == 0:
            return {}
        throughput = self._throughput
        samples = steps * throughput.samples_per_step / seconds
        row: Row = {"perf/samples_per_second": samples, "perf/step_seconds": seconds / steps}
        row["perf/data_wait"] = data_seconds / seconds
        if throughput.tokens_per_step is not None:
            row["perf/tokens_per_second"] = steps * throughput.tokens_per_step / seconds
        share = throughput.share_of_peak(samples)
        if share is not None:
            row["perf/share_of_peak"] = share
        return row
