"""An entry in TensorBoard's hparams tab for a trial that has none of its own: one that did not finish."""

from __future__ import annotations

from pathlib import Path

from bigtrain.config.saved import plain_settings
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import ConfigError
from bigtrain.sweep.trial import Trial


def write_entry(sweep_dir: Path, trial: Trial) -> None:
    """Into the sweep's own `tensorboard/<trial>/`. Raises OSError."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    from bigtrain.tracking.tensorboard import EventFile, hyperparameter_summaries

    try:
        document = read_document(trial.run_dir / "config.yaml")
    except ConfigError:  # it came to nothing before there was one
        document = dict(trial.job.swept)
    settings = plain_settings(document)
    if settings.get("tracking.tensorboard") is False:
        return
    metrics = {f"final/{name}": value for name, value in trial.metrics.items()}
    events = EventFile(sweep_dir / "tensorboard" / trial.run_dir.name)
    try:
        for summary in hyperparameter_summaries(settings, metrics, failed=trial.state == "failed"):
            events.add(summary, 0)
        for tag, value in metrics.items():
            events.add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), 0)
    finally:
        events.close()
