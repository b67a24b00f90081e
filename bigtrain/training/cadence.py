"""Durations in steps: how long a training is, how often it logs, evaluates and saves, and what of that is due."""

from __future__ import annotations

from dataclasses import dataclass

from bigtrain.config.durations import Duration, parse_duration
from bigtrain.config.run import TrainerConfig
from bigtrain.data.base import DataSpec
from bigtrain.data.loader import TrainLoader
from bigtrain.errors import ConfigError
from bigtrain.training.state import TrainState

CADENCES = ("log", "evaluate", "save")  # in the order in which they come after a step


@dataclass(frozen=True)
class WorkUnits:
    """What turns durations into optimizer steps; sizes of batches and samples are averages."""

    batch_size: float
    epoch_samples: int
    sample_tokens: float | None
    whole: Duration  # of the training: what percentages refer to

    @classmethod
    def of(cls, loader: TrainLoader, spec: DataSpec, settings: TrainerConfig) -> WorkUnits:
        """Of this run's data."""
        lengths = loader.dataset.lengths
        tokens = spec.sequence_length if lengths is None else float(lengths.mean())
        whole = parse_duration(settings.max_duration)
        return cls(loader.order.samples_per_step, spec.sizes["train"], tokens, whole)

    def steps(self, duration: str, whole: Duration | None = None) -> int | None:
        """Steps of a duration, or None for a time. `whole`: what a percentage is of, if not of the training."""
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
        """In steps, or in seconds where the training's own length is a time; None if it can't be expressed so."""
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


@dataclass(frozen=True)
class Length:
    """How long a training is: in optimizer steps, or, where `steps` is None, in seconds of training."""

    steps: int | None
    seconds: float | None

    def reached(self, step: int, train_seconds: float) -> bool:
        """Whether the training is over."""
        if self.steps is not None:
            return step >= self.steps
        return train_seconds >= (self.seconds or 0.0)


@dataclass(frozen=True)
class Cadences:
    """What is due after a step, and not done. What is done is kept in `state`, so that a resumed run does the rest."""

    log: Cadence
    evaluate: Cadence
    save: Cadence
    state: TrainState

    def due(self, name: str, train_seconds: float, last: bool) -> bool:
        """Whether one of `CADENCES` is due after the state's step and not done.

        `train_seconds`: the same on every rank; `last`: of the training, after which all three are due.
        """
        if name in self.state.cadences_done or self.state.step == 0:
            return False
        cadence: Cadence = getattr(self, name)
        return last or cadence.due(self.state.step, train_seconds - self.state.cadence_seconds.get(name, 0.0))

    def done(self, name: str, train_seconds: float) -> None:
        """Records that it is done for this step."""
        self.state.cadences_done.append(name)
        self.state.cadence_seconds[name] = train_seconds


def length_and_cadences(settings: TrainerConfig, units: WorkUnits, state: TrainState) -> tuple[Length, Cadences]:
    """From the settings' durations. Raises ConfigError for one that these units can't express, as tokens of images."""
    try:
        length = Length(units.steps(settings.max_duration), parse_duration(settings.max_duration).seconds)
        evaluate, save = (Cadence.of(every, units) for every in (settings.eval_every, settings.save_every))
    except ValueError as error:
        raise ConfigError.of(
            "CONFIG-VALUE", f"a duration {error}", cause="trainer.max_duration, eval_every or save_every"
        ) from error
    return length, Cadences(Cadence(steps=settings.log_every), evaluate, save, state)
