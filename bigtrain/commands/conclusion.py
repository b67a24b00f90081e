"""The conclusion of a run that finished: the best weights on the test split, a sample, and the next commands."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bigtrain import __version__
from bigtrain.build import Parts
from bigtrain.config.compose import Composed
from bigtrain.config.kinds import TaskConfig
from bigtrain.config.saved import plain_settings
from bigtrain.distributed.strategy import gathered
from bigtrain.errors import CheckpointError
from bigtrain.nn.size import count_parameters
from bigtrain.planning.in_run import MemoryFigures, peak_memory
from bigtrain.report.overfit import Fit, overfit_verdict
from bigtrain.report.run_report import ReportedRun, write_run_report
from bigtrain.storage.checkpoint import Checkpoint, verify
from bigtrain.tasks.base import Example
from bigtrain.tracking.jsonl import read_rows
from bigtrain.tracking.results import Results, SplitMetrics, next_commands
from bigtrain.tracking.status_line import status_line
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.machine import device_name
from bigtrain.training.snapshot import load_evaluated_weights
from bigtrain.training.trainer import Trainer


def conclude(
    composed: Composed, run_dir: Path, parts: Parts, trainer: Trainer, columns: list[SplitMetrics]
) -> tuple[dict[str, Any], Results | None]:
    """Records the results, on rank 0; returns facts for status.json, and what to print after. `columns`: of
    `evaluate_best`.
    """
    example = _final_example(parts, trainer) if composed.config.tracking.samples else Example()
    memory = _memory(composed, parts, trainer)
    if not parts.world.is_main:
        return {}, None
    baselines = _add_baselines(columns, parts, trainer.tracker)
    metrics = {f"{column.split}/{name}": value for column in columns for name, value in column.metrics.items()}
    if example.text:
        trainer.tracker.text("test/sample", example.text, trainer.state.step)
    fresh = {tag: value for tag, value in metrics.items() if _comes_last(tag, parts.config.task)} | baselines
    if fresh:
        trainer.tracker.scalars(trainer.row() | fresh)
    trainer.tracker.hyperparameters(plain_settings(composed.document), metrics)
    throughput, state = trainer.throughput, trainer.state
    samples = round(state.step * throughput.samples_per_step)
    speed = samples / state.train_seconds if state.train_seconds else 0.0
    results = Results(
        title=f"{composed.choices['model']} on {composed.choices['data']}",
        run_dir=run_dir,
        columns=columns,
        steps=state.step,
        train_seconds=state.train_seconds,
        samples=samples,
        tokens=None if throughput.tokens_per_step is None else round(state.step * throughput.tokens_per_step),
        optimal_loss=parts.optimal_loss,
        optimal_accuracy=parts.data.spec.optimal_accuracy,
        share_of_peak=throughput.share_of_peak(speed),
        sample=example.text,
        warning=_warning(composed, run_dir),
        commands=next_commands(run_dir, example.prompt, " ".join(composed.request.plugin_overrides)),
        memory=memory,
    )
    flops = samples * throughput.flops_per_sample
    cost = {"seconds": state.train_seconds, "samples": samples, "tokens": results.tokens, "flops": flops}
    if composed.config.tracking.report:
        results = _reported(composed, parts, trainer, results, flops)
    trainer.tracker.close()  # the live view must be gone before the table is printed
    facts = {"state": "finished", "reason": "", "step": state.step, "metrics": metrics, "cost": cost}
    facts["best"] = best_evaluation(trainer, columns)
    facts["parameters"] = count_parameters(parts.network)
    return facts, results


def best_evaluation(trainer: Trainer, columns: list[SplitMetrics]) -> dict[str, Any]:
    """The watched metric of the best weights, on all of the validation split; where they were chosen by a sample of it,
    "sampled" has the metric there and the sample's size.
    """
    state, watched = trainer.state, trainer.selection
    metric, sampled = state.best_metric, {}
    if metric is not None and trainer.evaluator.is_sampled("val"):
        sampled = {"sampled": {"metric": metric, "samples": len(trainer.evaluator.dataset("val"))}}
        of_split = {column.split: column.metrics for column in columns}
        metric = of_split["val"].get(watched.metric, metric)  # the end has no metric of greedy search
    name = f"val/{watched.metric}"
    found = {"metric": metric, "step": state.best_step, "name": name, "higher_is_better": watched.higher_is_better}
    return found | sampled


def _final_example(parts: Parts, trainer: Trainer) -> Example:
    """What rank 0 writes, with the ranks that compute its blocks with it: for it sharded weights are gathered on all
    ranks, in the dtype of autocast.
    """
    low = trainer.precision.autocast(parts.world.device) if parts.strategy.shards else nullcontext()
    with gathered(trainer.module), low:
        if parts.world.data_rank == 0:
            return parts.task.final_example(parts.network, parts.data, parts.config)
    return Example()


def _comes_last(tag: str, task: TaskConfig) -> bool:
    """Whether a metric is measured at the end only."""
    split, _, name = tag.partition("/")
    return split == "test" or task.while_training(name) != name


def _warning(composed: Composed, run_dir: Path) -> str:
    """That the run overfits or is unstable, by its evaluations; "" where it is neither."""
    verdict = overfit_verdict(read_rows(run_dir / "metrics.jsonl"), composed.config)
    return str(verdict) if verdict.fit in (Fit.overfits, Fit.unstable) else ""


def _reported(composed: Composed, parts: Parts, trainer: Trainer, results: Results, flops: float) -> Results:
    """The results with the report that was written of them."""
    spec, run_dir = parts.data.spec, results.run_dir
    sizes = ", ".join(f"{split} {size:,}" for split, size in spec.sizes.items())
    facts = [
        ("samples", f"{sizes} ({spec.kind}, fingerprint {spec.fingerprint[:12]})"),
        ("parameters", f"{count_parameters(parts.network)['all']:,}"),
        ("machine", f"{device_name(parts.world.device)}, {parts.world.size} rank{'s' if parts.world.size > 1 else ''}"),
        ("precision", f"{trainer.precision.name} ({trainer.precision.reason})"),
        *([("evaluation", sampling)] if (sampling := trainer.evaluator.sampling()) else []),
        ("software", f"bigtrain {__version__}, torch {torch.__version__}"),
    ]
    run = ReportedRun(composed.config, composed.document, facts, results, flops)
    try:
        with status_line("Writing the report", ""):
            return replace(results, report=str(write_run_report(run_dir, run)))
    except Exception as error:  # a report must never end a run that has finished
        trainer.tracker.note(f"there is no report: {type(error).__name__}: {error}", True)
        return results


def _memory(composed: Composed, parts: Parts, trainer: Trainer) -> MemoryFigures | None:
    """Predicted and measured, on rank 0, where it was measured."""
    try:
        return peak_memory(composed.config, parts, trainer) if parts.world.is_main else None
    except Exception as error:  # what is only told must never end a run that has finished
        trainer.tracker.note(f"its memory can't be predicted: {type(error).__name__}: {error}", True)
        return None


def evaluate_best(trainer: Trainer) -> list[SplitMetrics]:
    """Metrics of the best weights (the last, without a validation split) on val and, where there is one, on test.

    Those on val are known from when the weights became the best, unless that was before a resume, or on a sample. Where
    training read a sample, as all of the split takes long, a stop that is asked for ends this too: columns are then
    missing, and `trainer.stop_reason` is set.
    """
    step = trainer.state.step
    weights = "best" if trainer.state.best_step == step else "last"
    # Read back where training has gone on since.
    checkpoint = _intact_best(trainer) if weights == "last" else None
    if checkpoint is not None:
        load_evaluated_weights(trainer.module.network, checkpoint)
        weights, step = "best", checkpoint.step
    elif trainer.average is not None:
        trainer.average.adopt()
    is_measured = weights == "best" and step == trainer.state.best_step
    is_measured &= not trainer.module.task.measures_more_at_end and not trainer.evaluator.is_sampled("val")
    known = trainer.best_metrics if is_measured else None
    columns = []
    for split in ("val", "test"):
        if split == "val" and known is not None:
            columns.append(SplitMetrics(split, weights, step, dict(known)))
        elif trainer.evaluator.has(split):
            stop = trainer.agree_to_stop if trainer.evaluator.is_sampled("val") else lambda: False
            evaluation = trainer.evaluator.evaluate(split, stop=stop, final=True)
            if evaluation is None:
                break
            columns.append(SplitMetrics(split, weights, step, evaluation.metrics))
    return columns


def _add_baselines(columns: list[SplitMetrics], parts: Parts, tracker: Tracker) -> dict[str, float]:
    """The metrics of the baselines: adds them to the columns, and returns them by tag."""
    with status_line("Measuring baselines", ""):
        found = parts.task.baselines(parts.data, [column.split for column in columns])
    for sentence in found.notes:
        tracker.note(sentence)
    for column in columns:
        column.metrics.update(found.metrics.get(column.split, {}))
    return {f"{split}/{name}": value for split, metrics in found.metrics.items() for name, value in metrics.items()}


def _intact_best(trainer: Trainer) -> Checkpoint | None:
    """The best checkpoint, verified by all ranks together; None where it is not intact, or there is none."""
    best = trainer.checkpoints.best() if trainer.world.is_main else None
    where = trainer.world.broadcast("" if best is None else str(best))
    if not where:
        return None
    try:
        return verify(Path(where), trainer.world)
    except CheckpointError as error:
        trainer.tracker.note(f"{error.problems[0].message}; evaluating the last weights", True)
        return None
