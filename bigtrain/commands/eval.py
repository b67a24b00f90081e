"""`bigtrain eval`: a checkpoint on a split, as a table, as eval.json, and in the run's TensorBoard."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bigtrain.build import build_data, evaluation_batch_size
from bigtrain.commands.loading import Loaded, load
from bigtrain.config.compose import Composed
from bigtrain.config.run import EvalConfig, RunConfig
from bigtrain.data.base import DataModule
from bigtrain.data.progress import status_line
from bigtrain.data.text.config import TextClassificationConfig
from bigtrain.distributed.world import lone_world
from bigtrain.errors import DataError, ExitCode
from bigtrain.registry import TASKS
from bigtrain.report.baselines import baselines_of
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.formatting import number
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Tracker
from bigtrain.training import durable
from bigtrain.training.evaluator import Evaluator
from bigtrain.training.precision import ResolvedPrecision


def run(composed: Composed) -> int:
    """Evaluates, and records it beside the run. Raises BigtrainError for a checkpoint or data that can't be used."""
    config: EvalConfig = composed.config
    report = evaluate(config)
    _record(config, report)
    show(report)
    return ExitCode.OK


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """What eval.json holds: the checkpoint's metrics on a split. Raises BigtrainError; writes nothing."""
    world = lone_world(config.gpus)
    loaded = load(config.checkpoint, world)
    data = build_data(_with_other_data(loaded, config), loaded.tokenizer)
    _require_same_kind(loaded, data)
    config = dataclasses.replace(config, split=_split(config.split, data))
    precision = ResolvedPrecision(loaded.checkpoint.fact("resolved")["precision"], "as the run had it")
    batch_size = config.batch_size or evaluation_batch_size(loaded.config.trainer)
    # What belongs to the text that is scored, not to the model.
    spec = dataclasses.replace(
        loaded.spec, bytes_per_token=data.spec.bytes_per_token, optimal_loss=data.spec.optimal_loss
    )
    task = TASKS.entry_of(loaded.config.task).load()(loaded.config.task, spec, loaded.tokenizer)
    evaluator = Evaluator(TrainingModule(loaded.network, task), task, data, precision, batch_size, world)
    evaluation = evaluator.evaluate(config.split, final=True)
    assert evaluation is not None
    if data.spec.fingerprint == loaded.spec.fingerprint:  # else the training split is not what the model has seen
        with status_line("Measuring baselines", ""):
            evaluation.metrics.update(baselines_of(task, data, [config.split]).metrics.get(config.split, {}))
    return {
        "checkpoint": str(loaded.checkpoint.path),
        "step": loaded.checkpoint.step,
        "split": config.split,
        "samples": data.spec.sizes[config.split],
        "data_path": config.data.path,
        "data_fingerprint": data.spec.fingerprint,
        "metrics": evaluation.metrics,
    }


def _with_other_data(loaded: Loaded, config: EvalConfig) -> RunConfig:
    run_config = loaded.config
    changes: dict[str, Any] = {
        field.name: getattr(config.data, field.name)
        for field in dataclasses.fields(config.data)
        if getattr(config.data, field.name) is not None
    }
    fields = {field.name for field in dataclasses.fields(run_config.data)}
    if "path" in changes and "train_path" in fields:
        changes |= {"train_path": None, "val_path": None, "test_path": None}
    if "path" in changes and isinstance(run_config.data, TextClassificationConfig):
        changes["labels"] = list(loaded.spec.labels)  # in the order that the model knows, whichever of them occur
        if not Path(changes["path"]).expanduser().is_dir():  # nothing has to be held out of a file
            changes |= {"path": None, "test_path": changes["path"]}
    refused = sorted(set(changes) - fields)
    if refused:
        raise DataError.of(
            "EVAL-DATA",
            f"data.{refused[0]} is not a setting of the data that this checkpoint was trained on",
            fix="leave it out: this data needs no files of yours",
        )
    return dataclasses.replace(run_config, data=dataclasses.replace(run_config.data, **changes))


def _require_same_kind(loaded: Loaded, data: DataModule) -> None:
    spec, other = loaded.spec, data.spec
    if other.labels != spec.labels[: len(other.labels)]:
        raise DataError.of(
            "EVAL-DATA",
            "this data has other classes than the checkpoint",
            cause=f"it has {', '.join(other.labels[:20])}; the model knows {', '.join(spec.labels[:20])}",
            fix="evaluate on data with the classes that the model was trained on",
        )
    if (spec.kind, spec.vocab_size, spec.input_shape) != (other.kind, other.vocab_size, other.input_shape):
        raise DataError.of(
            "EVAL-DATA",
            "this data does not fit the checkpoint",
            cause=f"it gives {other.kind}, vocabulary {other.vocab_size}, shape {other.input_shape}; the model takes "
            f"{spec.kind}, vocabulary {spec.vocab_size}, shape {spec.input_shape}",
            fix="evaluate on data of the kind that the model was trained on",
        )


def _split(split: str, data: DataModule) -> str:
    if split == "auto":
        split = "test" if data.spec.sizes.get("test") else "val"
    if not data.spec.sizes.get(split):
        raise DataError.of(
            "EVAL-DATA",
            f"this data has no {split} split",
            fix=f"choose one of split={', split='.join(name for name, size in data.spec.sizes.items() if size)}",
        )
    return split


def _record(config: EvalConfig, report: dict[str, Any]) -> None:
    """eval.json beside the checkpoints' run, and the scalars in its TensorBoard; a lone checkpoint is only read."""
    split, run_dir = report["split"], Path(report["checkpoint"]).parent.parent
    if not (run_dir / "config.yaml").is_file():
        return
    with durable.disk_errors(run_dir):
        durable.replace_json(run_dir / "eval.json", report)
    if config.tracking.tensorboard:
        # A folder of its own, purged by each evaluation: no second point on the run's curves.
        tracker = Tracker([TensorBoardSink(run_dir / "tensorboard" / f"eval-{split}", purge_step=0)])
        tags = {f"{split}/{name}": value for name, value in report["metrics"].items()}
        tracker.scalars({"step": report["step"], **tags})
        tracker.close()


def show(report: dict[str, Any]) -> None:
    """The table on the console."""
    console = SteadyConsole()
    console.print(f"{report['split']} split, {report['samples']:,} samples, weights of step {report['step']:,}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column(report["split"], justify="right")
    for name, value in report["metrics"].items():
        table.add_row(name.replace("_", " "), number(value))
    console.print(table)
    console.print(f"checkpoint: {report['checkpoint']}", soft_wrap=True, highlight=False)
