"""`bigtrain eval`: a checkpoint on a split, as a table, as eval.json, and in the run's TensorBoard."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bigtrain.build import evaluation_batch_size
from bigtrain.commands.evaluated_data import evaluated_data
from bigtrain.commands.loading import load
from bigtrain.config.compose import Composed
from bigtrain.config.run import EvalConfig
from bigtrain.distributed.world import lone_world
from bigtrain.errors import ExitCode
from bigtrain.registry import TASKS
from bigtrain.storage import durable
from bigtrain.tasks.base import TrainingModule
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.formatting import number
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Tracker
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
    evaluated = evaluated_data(loaded, config)
    data, split = evaluated.data, evaluated.split
    precision = ResolvedPrecision(loaded.checkpoint.fact("resolved")["precision"], "as the run had it")
    settings, resolved = loaded.config.trainer, loaded.checkpoint.fact("resolved")
    micro_batch_size = settings.fixed_micro_batch_size or int(resolved.get("micro_batch_size", 0))
    batch_size = config.batch_size or evaluation_batch_size(settings, micro_batch_size)
    # The data that is measured may have another length per token and another optimum than the training's.
    spec = dataclasses.replace(
        loaded.spec, bytes_per_token=data.spec.bytes_per_token, optimal_loss=data.spec.optimal_loss
    )
    task = TASKS.entry_of(loaded.config.task).load()(loaded.config.task, spec, loaded.tokenizer)
    evaluator = Evaluator(TrainingModule(loaded.network, task), task, data, precision, batch_size, world)
    evaluation = evaluator.evaluate(split, final=True)
    assert evaluation is not None
    if data.spec.fingerprint == loaded.spec.fingerprint:  # else the training split is not what the model has seen
        with status_line("Measuring baselines", ""):
            evaluation.metrics.update(task.baselines(data, [split]).metrics.get(split, {}))
    return {
        "checkpoint": str(loaded.checkpoint.path),
        "step": loaded.checkpoint.step,
        "split": split,
        "samples": data.spec.sizes[split],
        "data_path": config.data.path,
        "data_fingerprint": data.spec.fingerprint,
        "in_training_data": evaluated.to_json(),
        "metrics": evaluation.metrics,
    }


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
    """Prints the table, and before it, on stderr, a warning where samples stand in the training data."""
    if warning := _warning(report["in_training_data"] or {}):
        print(f"warning: {warning}", file=sys.stderr)
    console = SteadyConsole()
    console.print(f"{report['split']} split, {report['samples']:,} samples, weights of step {report['step']:,}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column(report["split"], justify="right")
    for name, value in report["metrics"].items():
        table.add_row(name.replace("_", " "), number(value))
    console.print(table)
    console.print(f"checkpoint: {report['checkpoint']}", soft_wrap=True, highlight=False)


def _warning(compared: dict[str, Any]) -> str:
    if reason := compared.get("not_compared"):
        return f"the samples could not be compared with what the run was trained on: {reason}"
    if compared.get("found"):
        found, total, unit = compared["found"], compared["total"], compared["unit"]
        return f"{found:,} of {total:,} {unit} stand in the training data: the model was trained on them"
    return ""
