"""`bigtrain train`: one run, new or resumed, from a composed config to the table of results."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bigtrain.build import Parts, build_data, build_parts, build_trainer, device_name, prepare_device
from bigtrain.commands.outcome import conclude
from bigtrain.config.compose import Composed
from bigtrain.config.durations import parse_duration
from bigtrain.config.resume import refuse_other_training
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import document_text
from bigtrain.distributed.world import join_world
from bigtrain.errors import BigtrainError, DataError, ExitCode, MachineError
from bigtrain.tracking.console import SteadyConsole, console_for
from bigtrain.tracking.jsonl import JsonlSink, cut_back
from bigtrain.tracking.log_file import LogFileSink
from bigtrain.tracking.results import Results, print_results
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import RunFacts, Sink, Tracker
from bigtrain.training import durable
from bigtrain.training.checkpoint import Checkpoint, CheckpointStore, find_checkpoint
from bigtrain.training.run_directory import Status, create_run_directory, environment, find_latest_run, lock
from bigtrain.training.signals import StopRequest
from bigtrain.training.snapshot import load_matching, read_state
from bigtrain.training.trainer import Trainer


def run(composed: Composed) -> int:
    """Trains. Returns the exit code; raises BigtrainError for what the user can mend."""
    config: RunConfig = composed.config
    if composed.resumed is not None:
        with lock(composed.resumed.run_dir):
            return _resume(composed, composed.resumed.run_dir)
    source = find_checkpoint(config.init_from, find_latest_run(Path(config.output_dir))) if config.init_from else None
    if source is not None:  # by its full name: "latest" means another run later
        config = replace(config, init_from=str(source.path.absolute()))
        composed = replace(composed, config=config, document=composed.document | {"init_from": config.init_from})
    parts = _build(config)
    notes = _initialise(config, parts)
    # Made only now: a run whose data or starting weights are missing leaves no directory behind.
    run_dir = create_run_directory(Path(config.output_dir), config.name)
    with lock(run_dir):
        with durable.disk_errors(run_dir):
            durable.replace(run_dir / "config.yaml", document_text(composed.document))
            durable.replace(run_dir / "overrides.txt", "\n".join(composed.overrides) + "\n")
        return _recorded(composed, run_dir, parts, None, notes)


def _resume(composed: Composed, run_dir: Path) -> int:
    if Status(run_dir).get("state") == "finished":
        print(f"{run_dir} is finished already; nothing to do")
        return ExitCode.OK
    assert composed.resumed is not None
    parts = _build(composed.config)
    store = CheckpointStore(run_dir / "checkpoints")
    store.prepare()
    checkpoint = store.newest(set_aside=True)
    evaluated = checkpoint is not None and "evaluate" in read_state(checkpoint).cadences_done
    if checkpoint is None:
        notes = _initialise(composed.config, parts)
    else:
        notes = []
        _require_same_data(checkpoint, parts)
        refuse_other_training(checkpoint.read_json("config.json"), composed.document)
    with durable.disk_errors(run_dir):
        cut_back(run_dir / "metrics.jsonl", checkpoint.step if checkpoint else 0, None if evaluated else "val/")
    notes += [f"changed on resume: {difference}" for difference in composed.resumed.differences]
    return _recorded(composed, run_dir, parts, checkpoint, notes)


def _build(config: RunConfig) -> Parts:
    world = join_world(config.trainer.gpus)
    prepare_device(config.trainer, world.device)
    return build_parts(config, build_data(config), world)


def _initialise(config: RunConfig, parts: Parts) -> list[str]:
    """Weights of `init_from`, where it is given; returns what was done, in sentences."""
    if not config.init_from:
        return []
    return load_matching(parts.network, find_checkpoint(config.init_from))


def _require_same_data(checkpoint: Checkpoint, parts: Parts) -> None:
    before = checkpoint.fact("data_fingerprint")
    if before != parts.data.spec.fingerprint:
        raise DataError.of(
            "DATA-CHANGED",
            "the data is not what this run began with",
            cause=f"its fingerprint was {before}, now {parts.data.spec.fingerprint}",
            fix="put the old data back, or start a new run with init_from= to keep the weights",
        )


def _recorded(composed: Composed, run_dir: Path, parts: Parts, checkpoint: Checkpoint | None, notes: list[str]) -> int:
    """Trains with the outcome, whatever it is, in status.json."""
    status = Status(run_dir)
    facts = environment(torch.__version__, device_name(parts.world.device), torch.get_num_threads())
    status.update(state="running", exit_code=None, reason="", tags=list(composed.config.tags), environment=facts)
    try:
        code, outcome, results = _train(composed, run_dir, parts, checkpoint, notes)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        code = error.exit_code if isinstance(error, BigtrainError) else ExitCode.BUG
        with contextlib.suppress(OSError, MachineError):  # a full disk must not hide what went wrong
            durable.replace(run_dir / "error.log", traceback.format_exc())
            status.update(
                state="interrupted" if interrupted else "failed",
                exit_code=int(ExitCode.INTERRUPTED if interrupted else code),
                reason=str(error) or type(error).__name__,
            )
        raise
    status.update(exit_code=int(code), **outcome)
    if results is not None:
        print_results(SteadyConsole(), results)
    return code


def _train(
    composed: Composed, run_dir: Path, parts: Parts, checkpoint: Checkpoint | None, notes: list[str]
) -> tuple[ExitCode, dict[str, Any], Results | None]:
    config: RunConfig = composed.config
    store = CheckpointStore(run_dir / "checkpoints")
    store.prepare()
    first_step = checkpoint.step if checkpoint else 0
    tracker = _tracker(config, run_dir, None if composed.resumed is None else first_step + 1)
    limit = None if config.trainer.time_limit is None else parse_duration(config.trainer.time_limit).seconds
    try:
        with StopRequest(limit) as stop:
            trainer = build_trainer(parts, run_dir, tracker, stop, composed.document, checkpoint)
            # Before hours of training, not after: there must be room for a first checkpoint.
            durable.require_space(run_dir, int(1.2 * trainer.snapshot.size_bytes()))
            for sentence in notes:
                tracker.note(sentence)
            tracker.start(_facts(composed, run_dir, parts, trainer))
            reason = trainer.fit()
            if reason:
                return ExitCode.PREEMPTED, _preempted(run_dir, trainer, tracker, reason), None
            return ExitCode.OK, *conclude(composed, run_dir, parts, trainer)
    finally:
        tracker.close()


def _tracker(config: RunConfig, run_dir: Path, purge_step: int | None) -> Tracker:
    """Every sink, the console first: it shows what the others warn of. A resumed run purges from `purge_step` on."""
    with durable.disk_errors(run_dir):
        sinks: list[Sink] = [
            console_for(),
            LogFileSink(run_dir / "train.log"),
            JsonlSink(run_dir / "metrics.jsonl"),
        ]
    if config.tracking.tensorboard:
        sinks.append(TensorBoardSink(run_dir / "tensorboard", purge_step))
    return Tracker(sinks)


def _preempted(run_dir: Path, trainer: Trainer, tracker: Tracker, reason: str) -> dict[str, Any]:
    step = trainer.state.step
    tracker.note(f"stopped by {reason} after step {step}; state saved. Go on with: bigtrain resume={run_dir}")
    return {"state": "preempted", "reason": reason, "step": step}


def _facts(composed: Composed, run_dir: Path, parts: Parts, trainer: Trainer) -> RunFacts:
    spec, limits, state = parts.data.spec, trainer.limits, trainer.state
    sizes = ", ".join(f"{split} {size:,}" for split, size in spec.sizes.items())
    unit = f"windows of {spec.sequence_length} tokens" if spec.sequence_length else "samples"
    return RunFacts(
        title=f"{composed.choices['model']} on {composed.choices['data']}",
        run_dir=run_dir,
        config_text=document_text(composed.document),
        resolved={
            "device": device_name(parts.world.device),
            "precision": f"{trainer.precision.name} ({trainer.precision.reason})",
            "compile": state.resolved["compile"],
        },
        parameters=sum(parameter.numel() for parameter in parts.network.parameters()),
        total_steps=limits.total_steps,
        first_step=state.step,
        samples_per_step=limits.samples_per_step,
        tokens_per_step=limits.tokens_per_step,
        flops_per_sample=limits.flops_per_sample,
        peak_flops=limits.peak_flops,
        primary_metric=f"val/{parts.task.primary_metric}",
        higher_is_better=parts.task.higher_is_better,
        optimal_loss=spec.optimal_loss,
        details={"data": f"{sizes} {unit}"},
    )
