"""`bigtrain train`: one run, new or resumed, from a composed config to the table of results.

With several ranks each walks through here. Rank 0 names the run directory, writes and talks; the others are told.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bigtrain.build import Parts, build_data, build_parts, build_trainer, count_parameters
from bigtrain.commands.audit import audit_before_training, tell
from bigtrain.commands.init_from import brought_tokenizer, initialise, settled
from bigtrain.commands.outcome import conclude
from bigtrain.config.compose import Composed
from bigtrain.config.durations import parse_duration
from bigtrain.config.resume import refuse_other_training
from bigtrain.config.run import RunConfig
from bigtrain.config.saved import document_text
from bigtrain.data.base import DataModule
from bigtrain.distributed.launch import RANK_LOST, end_with_launcher, launch
from bigtrain.distributed.world import RankLostError, World, join_world, lost_ranks, ranks_to_start
from bigtrain.errors import BigtrainError, ConfigError, DataError, ExitCode, MachineError
from bigtrain.tracking.console import SteadyConsole, console_for
from bigtrain.tracking.jsonl import JsonlSink, cut_back
from bigtrain.tracking.log_file import LogFileSink
from bigtrain.tracking.results import Results, override, print_results
from bigtrain.tracking.tensorboard import TensorBoardSink
from bigtrain.tracking.tracker import Opening, RunFacts, Sink, Tracker
from bigtrain.training import durable
from bigtrain.training.checkpoint import Checkpoint, CheckpointStore, verify
from bigtrain.training.machine import device_name, prepare_device
from bigtrain.training.run_directory import (
    RUN_DIR_VARIABLE,
    Status,
    create_run_directory,
    environment,
    is_run_directory,
    lock,
    new_run_path,
)
from bigtrain.training.signals import StopRequest
from bigtrain.training.snapshot import read_state
from bigtrain.training.trainer import Trainer

_SECONDS_FOR_RANK_0 = 3.0


def run(composed: Composed) -> int:
    """Trains. Returns the exit code; raises BigtrainError for what the user can mend."""
    composed = settled(composed)
    launched = end_with_launcher()
    ranks = ranks_to_start(composed.config.trainer)
    if ranks > 1:
        return _launch(composed, ranks)
    with join_world(composed.config.trainer) as world, _rank_errors(world, launched):
        _require_same_settings(composed, world)
        return _train_here(composed, world)


def _launch(composed: Composed, ranks: int) -> int:
    """Starts the ranks, with words that mean the same whenever they are read."""
    config, request = composed.config, composed.request
    words = [word for word in request.words if not word.startswith(("resume=", "init_from="))]
    if composed.resumed is not None:
        run_dir = composed.resumed.run_dir.absolute()
        words.append(f"resume={run_dir}")
    else:
        run_dir = new_run_path(Path(config.output_dir), config.name).absolute()
        words += [f"init_from={config.init_from}"] if config.init_from else []

    def words_to_go_on() -> list[str]:
        if composed.resumed is None and is_run_directory(run_dir):  # its own config has the rest
            return [*request.plugin_words, f"resume={run_dir}"]
        return [*request.flags, *words]

    return launch(
        [*request.flags, *words],
        ranks,
        config.trainer.max_restarts,
        words_to_go_on,
        **{RUN_DIR_VARIABLE: str(run_dir)},
    )


def _require_same_settings(composed: Composed, world: World) -> None:
    where = composed.resumed.run_dir.absolute() if composed.resumed else ""
    mine = hashlib.sha256(f"{where} {document_text(composed.document)}".encode()).hexdigest()
    if mine != world.share(mine):
        raise ConfigError.of(
            "RANK-SETTINGS",
            f"rank {world.rank} was given other settings than rank 0",
            cause="the command line, the config files or resume= differ between the ranks",
            fix="give every rank the same words, and resume= the full path of a run",
        )


@contextlib.contextmanager
def _rank_errors(world: World, launched: bool) -> Iterator[None]:
    """What fails on every rank is said once: rank 0 speaks first, and its launcher then ends the others."""
    if not world.is_main:
        warnings.simplefilter("ignore")
    try:
        with lost_ranks():
            yield
    except BaseException as error:
        if world.size == 1:
            raise
        if not world.is_main:
            time.sleep(_SECONDS_FOR_RANK_0)
            print(f"rank {world.rank}:", file=sys.stderr)
        if isinstance(error, RankLostError) and launched:  # which then tells it apart from the cause
            print(error, file=sys.stderr, flush=True)
            raise SystemExit(RANK_LOST) from error
        raise


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
    # Made only now: a run whose data or starting weights are missing leaves no directory behind.
    made = create_run_directory(Path(config.output_dir), config.name, planned) if world.is_main else Path()
    run_dir = Path(world.share(str(made)))
    _require_shared_folder(run_dir, world)
    if not world.is_main:
        return _recorded(composed, run_dir, parts, None, notes, tracker)
    with lock(run_dir):
        with durable.disk_errors(run_dir):
            durable.replace(run_dir / "config.yaml", document_text(composed.document))
            durable.replace(run_dir / "overrides.txt", "\n".join(composed.overrides) + "\n")
        return _recorded(composed, run_dir, parts, None, notes, tracker)


def _resume(composed: Composed, run_dir: Path, world: World, tracker: Tracker) -> int:
    if world.share(str(Status(run_dir).get("state") if world.is_main else "")) == "finished":
        if world.is_main:
            print(f"{run_dir} is finished already; nothing to do")
        return ExitCode.OK
    assert composed.resumed is not None
    checkpoint = _newest(CheckpointStore(run_dir / "checkpoints"), world)
    parts = _build(composed, world, tracker, run_dir, checkpoint)
    evaluated = checkpoint is not None and "evaluate" in read_state(checkpoint).cadences_done
    redone = ("test/",) if evaluated else ("test/", "val/")
    if checkpoint is None:
        notes = initialise(composed.config, parts)
    else:
        notes = []
        _require_same_data(checkpoint, parts)
        refuse_other_training(checkpoint.read_json("config.json"), composed.document)
    if world.is_main:
        with durable.disk_errors(run_dir):
            cut_back(run_dir / "metrics.jsonl", checkpoint.step if checkpoint else 0, redone)
    notes += [f"changed on resume: {difference}" for difference in composed.resumed.differences]
    return _recorded(composed, run_dir, parts, checkpoint, notes, tracker)


def _require_shared_folder(run_dir: Path, world: World) -> None:
    """Before hours of training, not after: every rank reads checkpoints that rank 0 writes."""
    seen = world.gather([float(run_dir.is_dir())])[:, 0]
    if not seen.all():
        raise MachineError.of(
            "RANK-FOLDER",
            f"not every rank sees {run_dir}: {', '.join(f'rank {rank}' for rank in (seen == 0).nonzero()[0])} does not",
            cause="ranks share one run directory, on a file system that all of them see, from one working folder",
            fix="give output_dir= a full path on a shared file system",
        )


def _newest(store: CheckpointStore, world: World) -> Checkpoint | None:
    """The checkpoint that rank 0 decides to go on from, on every rank."""
    newest = None
    if world.is_main:
        store.prepare()
        newest = store.newest(set_aside=True)
    where = world.share("" if newest is None else str(newest.path))
    return newest if world.is_main or not where else verify(Path(where))


def _build(
    composed: Composed, world: World, tracker: Tracker, run_dir: Path, resumed: Checkpoint | None = None
) -> Parts:
    config: RunConfig = composed.config
    prepare_device(config.trainer, world.device)
    with world.main_first("data"):
        data = build_data(config, brought_tokenizer(config, resumed))
        report = audit_before_training(config, data)
    if data.spec.fingerprint != world.share(data.spec.fingerprint):
        raise DataError.of(
            "RANK-DATA",
            f"rank {world.rank} has other data than rank 0",
            cause="the files behind the data settings differ between the ranks",
            fix="give every rank the same files",
        )
    if world.is_main:
        tracker.open(Opening(_title(composed), run_dir, count_parameters(config, data), _details(data)))
    parts = build_parts(config, data, world)
    parts.audit = report
    return parts


def _title(composed: Composed) -> str:
    return f"{composed.choices['model']} on {composed.choices['data']}"


def _details(data: DataModule) -> dict[str, str]:
    sizes = ", ".join(f"{split} {size:,}" for split, size in data.spec.sizes.items())
    unit = f"windows of {data.spec.sequence_length} tokens" if data.spec.kind == "text" else data.spec.kind
    return {"data": f"{sizes} {unit}"}


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
    """Trains with the outcome, whatever it is, in status.json."""
    if not parts.world.is_main:
        return _train(composed, run_dir, parts, checkpoint, notes, tracker)[0]
    status = Status(run_dir)
    facts = environment(torch.__version__, device_name(parts.world.device), torch.get_num_threads())
    facts["ranks"] = parts.world.size
    status.update(state="running", exit_code=None, reason="", tags=list(composed.config.tags), environment=facts)
    try:
        with lost_ranks():
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
        with StopRequest(limit) as stop:
            trainer = build_trainer(parts, run_dir, tracker, stop, composed.document, checkpoint)
            if world.is_main:  # before hours of training, not after: there must be room for a first checkpoint
                durable.require_space(run_dir, int(1.2 * trainer.snapshot.size_bytes()))
            for sentence in notes:
                tracker.note(sentence)
            if parts.audit is not None and world.is_main:
                tell(parts.audit, run_dir, tracker)
            tracker.start(_facts(composed, run_dir, parts, trainer))
            reason = trainer.fit()
            if reason:
                return ExitCode.PREEMPTED, _preempted(composed, run_dir, trainer, reason), None
            return ExitCode.OK, *conclude(composed, run_dir, parts, trainer)
    finally:
        tracker.close()


def _sinks(config: RunConfig, run_dir: Path, purge_step: int | None) -> list[Sink]:
    """Those that write; the console before them shows what they warn of. A resumed run purges from `purge_step` on."""
    with durable.disk_errors(run_dir):
        sinks: list[Sink] = [LogFileSink(run_dir / "train.log"), JsonlSink(run_dir / "metrics.jsonl")]
    if config.tracking.tensorboard:
        sinks.append(TensorBoardSink(run_dir / "tensorboard", purge_step))
    return sinks


def _preempted(composed: Composed, run_dir: Path, trainer: Trainer, reason: str) -> dict[str, Any]:
    step = trainer.state.step
    again = " ".join([*composed.request.plugin_words, override("resume", str(run_dir))])
    trainer.tracker.note(f"stopped by {reason} after step {step}; state saved. Go on with: bigtrain {again}")
    return {"state": "preempted", "reason": reason, "step": step}


def _facts(composed: Composed, run_dir: Path, parts: Parts, trainer: Trainer) -> RunFacts:
    spec, limits, state, world = parts.data.spec, trainer.limits, trainer.state, parts.world
    ranks = f"{world.size} ranks, each " if world.size > 1 else ""
    return RunFacts(
        title=_title(composed),
        run_dir=run_dir,
        config_text=document_text(composed.document),
        resolved={
            "device": ranks + device_name(world.device),
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
        primary_metric=f"val/{trainer.selection.metric}",
        higher_is_better=trainer.selection.higher_is_better,
        optimal_loss=parts.optimal_loss,
        optimal_accuracy=spec.optimal_accuracy,
        details=_details(parts.data),
    )
