"""Cadences: how often something happens, in steps or in seconds of training."""

from __future__ import annotations

from dataclasses import dataclass

from bigtrain.config.durations import Duration, parse_duration


@dataclass(frozen=True)
class WorkUnits:
    """What turns durations into optimizer steps; sizes of batches and samples are averages."""

    batch_size: float
    epoch_samples: int
    sample_tokens: float | None
    whole: Duration  # of the training: what shares are of

    def steps(self, duration: str, whole: Duration | None = None) -> int | None:
        """Steps of a duration, or None for a time. `whole`: what a share is of, where it is not the training."""
        parsed = parse_duration(duration).of(whole or self.whole)
        if parsed.seconds is not None:
            return None
        return parsed.steps(
            batch_size=self.batch_size, epoch_samples=self.epoch_samples, sample_tokens=self.sample_tokens
        )

    def seconds(self, duration: str) -> float | None:
        """Seconds of a duration, or None for work."""
        return parse_duration(duration).of(self.whole).seconds

    def length(self, duration: str) -> float | None:
        """Steps, or of a training that has a time, seconds: comparable with its own length; else None."""
        return self.steps(duration) if self.whole.seconds is None else self.seconds(duration)


@dataclass(frozen=True)
class Cadence:
    """Every `steps`, or every `seconds` of training; neither: only at the end."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, duration: str | None, units: WorkUnits) -> Cadence:
        """From a setting."""
        if duration is None:
            return cls()
        return cls(units.steps(duration), units.seconds(duration))

    def due(self, step: int, seconds_since_last: float) -> bool:
        """Whether it comes after this step."""
        if self.steps is not None:
            return step % self.steps == 0
        return self.seconds is not None and seconds_since_last >= self.seconds
