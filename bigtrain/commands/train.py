"""`bigtrain train`: one run, new or resumed, from a composed config to the table of results.

With several ranks each runs this code. Rank 0 chooses the run directory and broadcasts it, writes files and prints.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bigtrain.build import Parts, build_data, build_parts, build_trainer
from bigtrain.commands.agreement import rank_errors, require_same_settings, require_shared_folder
from bigtrain.commands.audit import audit_before_training, tell
from bigtrain.commands.conclusion import conclude, evaluate_best
from bigtrain.commands.extend import extended_from, nothing_left
from bigtrain.commands.init_from import brought_tokenizer, initialise, settled
from bigtrain.commands.opening import advice, facts, opening, rate_of_extension, unmeasured
from bigtrain.commands.shortage import shortage_of_memory
from bigtrain.config.compose import Composed
from bigtrain.config.contradictions import find_contradictions, refused
from bigtrain.config.durations import parse_duration
from bigtrain.config.resume import refuse_other_training
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import document_text
from bigtrain.distributed.launch import end_with_launcher, launch
from bigtrain.distributed.world import World, join_world, lost_ranks, ranks_to_start, require_tensor_parallel
from bigtrain.errors import BigtrainError, ConfigError, DataError, ExitCode, MachineError
from bigtrain.planning.in_run import require_memory
from bigtrain.signals import StopRequest
from bigtrain.storage import durable
from bigtrain.storage.checkpoint import Checkpoint, CheckpointStore
from bigtrain.storage.run_directory import (
    RUN_DIR_VARIABLE,
    Status,
    create_run_directory,
    environment,
    is_run_directory,
    lock,
    new_run_path,
    removed_unless_begun,
)
from bigtrain.tracking.console import SteadyConsole, console_for
from bigtrain.tracking.jsonl import JsonlSink, cut_back
from bigtrain.tracking.log_file import LogFileSink
from bigtrain.tracking.results import Results, override, print_results
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Sink, Tracker
from bigtrain.training.machine import device_name, prepare_device
from bigtrain.training.precision import require_arithmetic
from bigtrain.training.snapshot import read_state
from bigtrain.training.trainer import Trainer


def run(composed: Composed) -> int:
    """Trains. Returns the exit code; raises BigtrainError for what the user can mend."""
    composed = settled(composed)
    launched = end_with_launcher()
    ranks = ranks_to_start(composed.config.trainer, launched)
    if ranks > 1:
        require_tensor_parallel(composed.config.trainer, ranks)
        return _launch(composed, ranks)
    with join_world(composed.config.trainer) as world, rank_errors(world, launched):
        require_same_settings(composed, world)
        with shortage_of_memory(composed.config, world):
            return _train_here(composed, world)


def _launch(composed: Composed, ranks: int) -> int:
    """Starts the ranks, with overrides whose paths are absolute: "latest" may mean another run later."""
    config, request = composed.config, composed.request
    words = [word for word in request.overrides if not word.startswith(("resume=", "init_from="))]
    if composed.resumed is not None:
        run_dir = composed.resumed.run_dir.absolute()
        words.append(f"resume={run_dir}")
    else:
        run_dir = new_run_path(Path(config.output_dir), config.name).absolute()
        words += [f"init_from={config.init_from}"] if config.init_from else []

    def words_to_go_on() -> list[str]:
        if composed.resumed is None and is_run_directory(run_dir):  # its own config has the rest
            return [*request.plugin_overrides, f"resume={run_dir}"]
        return [*request.flags, *words]

    return launch(
        [*request.flags, *words],
        ranks,
        config.trainer.max_restarts,
        words_to_go_on,
        **{RUN_DIR_VARIABLE: str(run_dir)},
    )


def _train_here(composed: Composed, world: World) -> int:
    config: RunConfig = composed.config
    tracker = Tracker([console_for()] if world.is_main else [])
    if composed.resumed is not None:
        run_dir = composed.resumed.run_dir
        with lock(run_dir) if world.is_main else contextlib.nullcontext():
            return _resume(composed, run_dir, world, tracker)
    planned = new_run_path(Path(config.output_dir), config.name)
    parts = _build(composed, world, tracker, planned)
    notes = initialise(config, parts)
    # Made only now: a run whose data or starting weights are missing needs no directory.
    named = RUN_DIR_VARIABLE in os.environ  # by a sweep, which reads there how it ended, or by the launcher of ranks
    made = create_run_directory(Path(config.output_dir), config.name, planned) if world.is_main else Path()
    run_dir = Path(world.broadcast(str(made)))
    require_shared_folder(run_dir, world)
    if not world.is_main:
        return _recorded(composed, run_dir, parts, None, notes, tracker)
    with lock(run_dir), contextlib.nullcontext() if named else removed_unless_begun(run_dir):
        with durable.disk_errors(run_dir):
            durable.replace(run_dir / "config.yaml", document_text(composed.document))
            durable.replace(run_dir / "overrides.txt", "\n".join(composed.overrides) + "\n")
        return _recorded(composed, run_dir, parts, None, notes, tracker)


def _resume(composed: Composed, run_dir: Path, world: World, tracker: Tracker) -> int:
    resumed, store = composed.resumed, CheckpointStore(run_dir / "checkpoints")
    assert resumed is not None
    finished = world.broadcast(str(Status(run_dir).get("state") if world.is_main else "")) == "finished"
    if finished and not resumed.other_length:
        return _nothing_to_do(run_dir, "", world)
    checkpoint = _newest(store, world)
    parts = _build(composed, world, tracker, run_dir, checkpoint)
    if finished and checkpoint is not None and (why := nothing_left(composed.config, checkpoint, parts)):
        return _nothing_to_do(run_dir, why, world)
    newest = checkpoint
    if checkpoint is None:
        notes = initialise(composed.config, parts)
    else:
        _require_same_data(checkpoint, parts)
        refuse_other_training(checkpoint.read_json("config.json"), composed.document)
        checkpoint, notes = extended_from(composed.config, checkpoint, store, parts, world)
    evaluated = checkpoint is not None and "evaluate" in read_state(checkpoint).cadences_done
    redone = ("test/",) if evaluated else ("test/", "val/")
    if world.is_main:
        if resumed.differences:  # in this order: killed in between, it goes on with the new length all the same
            Status(run_dir).update(state="running")
            with durable.disk_errors(run_dir):
                durable.replace(run_dir / "config.yaml", document_text(resumed.document))
        if checkpoint is not None and checkpoint is not newest:
            store.set_aside_after(checkpoint.step)
        with durable.disk_errors(run_dir):
            cut_back(run_dir / "metrics.jsonl", checkpoint.step if checkpoint else 0, redone)
    notes += [f"changed on resume: {difference}" for difference in resumed.differences]
    return _recorded(composed, run_dir, parts, checkpoint, notes, tracker)


def _nothing_to_do(run_dir: Path, why: str, world: World) -> int:
    if world.is_main:
        print(f"{run_dir} is finished already; nothing to do" + (f": {why}" if why else ""))
    return ExitCode.OK


def _newest(store: CheckpointStore, world: World) -> Checkpoint | None:
    """The newest intact checkpoint, the same on every rank; None without one."""
    if world.is_main:
        store.prepare()
    return store.newest(set_aside=True, ranks=world)


def _build(
    composed: Composed, world: World, tracker: Tracker, run_dir: Path, resumed: Checkpoint | None = None
) -> Parts:
    config: RunConfig = composed.config
    require_memory(config, world)
    require_arithmetic(config.trainer.precision, world.device)
    prepare_device(config.trainer, world.device)
    with world.main_first("data"):
        data = build_data(config, brought_tokenizer(config, resumed))
        report = audit_before_training(config, data)
    if data.spec.fingerprint != world.broadcast(data.spec.fingerprint):
        raise DataError.of(
            "RANK-DATA",
            f"rank {world.rank} has other data than rank 0",
            cause="the files behind the data settings differ between the ranks",
            fix="give every rank the same files",
        )
    if world.is_main:
        tracker.open(opening(composed, run_dir, data))
    require_memory(config, world, data.spec)
    resolved = None if resumed is None else resumed.fact("resolved")
    parts = build_parts(config, data, world, draw=resumed is None, resolved=resolved)
    parts.audit = report
    if problems := refused(find_contradictions(config, parts.units.length), composed.asked):
        raise ConfigError(*(replace(problem, cause="the command line, with data of this size") for problem in problems))
    return parts


def _require_same_data(checkpoint: Checkpoint, parts: Parts) -> None:
    before = checkpoint.fact("data_fingerprint")
    if before != parts.data.spec.fingerprint:
        raise DataError.of(
            "DATA-CHANGED",
            "the data is not what this run began with",
            cause=f"its fingerprint was {before}, now {parts.data.spec.fingerprint}",
            fix="put the old data back, or start a new run with init_from= to keep the weights",
        )


def _recorded(
    composed: Composed,
    run_dir: Path,
    parts: Parts,
    checkpoint: Checkpoint | None,
    notes: list[str],
    tracker: Tracker,
) -> int:
    """Trains, and records in status.json how it ended, also when an exception ends it."""
    if not parts.world.is_main:
        return _train(composed, run_dir, parts, checkpoint, notes, tracker)[0]
    status = Status(run_dir)
    machine = environment(torch.__version__, device_name(parts.world.device), torch.get_num_threads())
    machine["ranks"] = parts.world.size
    status.update(state="running", exit_code=None, reason="", tags=list(composed.config.tags), environment=machine)
    try:
        with lost_ranks(), shortage_of_memory(composed.config, parts.world, run_dir, parts.data.spec):
            code, outcome, results = _train(composed, run_dir, parts, checkpoint, notes, tracker)
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
    composed: Composed,
    run_dir: Path,
    parts: Parts,
    checkpoint: Checkpoint | None,
    notes: list[str],
    tracker: Tracker,
) -> tuple[ExitCode, dict[str, Any], Results | None]:
    config: RunConfig = composed.config
    world = parts.world
    if world.is_main:
        CheckpointStore(run_dir / "checkpoints").prepare()
        first_step = checkpoint.step if checkpoint else 0
        tracker.add(_sinks(config, run_dir, None if composed.resumed is None else first_step + 1))
    limit = None if config.trainer.time_limit is None else parse_duration(config.trainer.time_limit).seconds
    try:
        for sentence in notes:
            tracker.note(sentence)
        for sentence in advice(composed, parts, checkpoint):  # before anything slow
            tracker.note(sentence, True)
        with StopRequest(limit) as stop:
            trainer = build_trainer(parts, run_dir, tracker, stop, composed.document, checkpoint)
            if world.is_main:  # before hours of training, not after: there must be room for a first checkpoint
                durable.require_space(run_dir, int(1.2 * trainer.snapshot.size_bytes()))
            for sentence in rate_of_extension(composed, trainer):
                tracker.note(sentence)
            if not (trainer.evaluator.has("val") or trainer.evaluator.has("test")):
                tracker.note(unmeasured(config), warning=True)
            if parts.audit is not None and world.is_main:
                tell(parts.audit, run_dir, tracker)
            tracker.start(facts(composed, run_dir, parts, trainer))
            with trainer.cores:
                columns = [] if trainer.fit() else evaluate_best(trainer)
                if trainer.stop_reason:
                    return ExitCode.PREEMPTED, _preempted(composed, run_dir, trainer), None
                return ExitCode.OK, *conclude(composed, run_dir, parts, trainer, columns)
    finally:
        tracker.close()


def _sinks(config: RunConfig, run_dir: Path, purge_step: int | None) -> list[Sink]:
    """The sinks that write files. TensorBoard ignores events of earlier files from `purge_step` on."""
    with durable.disk_errors(run_dir):
        sinks: list[Sink] = [LogFileSink(run_dir / "train.log"), JsonlSink(run_dir / "metrics.jsonl")]
    if config.tracking.tensorboard:
        sinks.append(TensorBoardSink(run_dir / "tensorboard", purge_step))
    return sinks


def _preempted(composed: Composed, run_dir: Path, trainer: Trainer) -> dict[str, Any]:
    step, reason = trainer.state.step, trainer.stop_reason
    again = " ".join([*composed.request.plugin_overrides, override("resume", str(run_dir))])
    trainer.tracker.note(f"stopped by {reason} after step {step}; state saved. Go on with: bigtrain {again}")
    return {"state": "preempted", "reason": reason, "step": step}
