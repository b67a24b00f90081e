"""`bigtrain pipeline=NAME`: every stage of every round, in order; what was run before is not run again.

To resume a pipeline that was stopped or killed, give the same command: it continues inside the interrupted stage. The
directory of a stage is named by a hash of what the stage depends on (`pipeline/store.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bigtrain.build import build_data
from bigtrain.commands import eval as evaluation
from bigtrain.commands import train
from bigtrain.commands.init_from import brought_tokenizer, settled
from bigtrain.config.compose import Composed, compose, validate
from bigtrain.config.kinds import Audit
from bigtrain.config.overrides import escape
from bigtrain.config.redact import redact_overrides
from bigtrain.data.audit.seen import seen_before
from bigtrain.data.base import DataModule
from bigtrain.errors import DataError, ExitCode, printable
from bigtrain.pipeline.definition import Pipeline
from bigtrain.pipeline.plan import Plan, Step, request_of
from bigtrain.pipeline.report import write_report
from bigtrain.pipeline.store import (
    EVALUATION,
    Outcome,
    key_of,
    place_of,
    read_outcome,
    start_hash,
    state_of,
)
from bigtrain.pipeline.tables import show_outcome, show_plan
from bigtrain.pipeline.verdict import progress_of, sentences
from bigtrain.signals import StopRequest
from bigtrain.storage import durable
from bigtrain.storage.run_directory import (
    RUN_DIR_VARIABLE,
    Status,
    create_run_directory,
    require_run_directory,
)
from bigtrain.tracking.console import SteadyConsole, say
from bigtrain.tracking.formatting import short_path


def run(plan: Plan, dry_run: bool = False) -> int:
    """Runs what has not been run yet. Returns the exit code: that of a stage that did not finish, else 0.

    Raises BigtrainError for what the user can mend; what was finished by then stays finished.
    """
    runner = _Runner(plan.pipeline)
    console = SteadyConsole()
    show_plan(console, plan, runner.state)
    if dry_run:
        return ExitCode.OK
    record = create_run_directory(runner.root, "pipelines")
    _write_request(record, plan)
    status = Status(record)
    status.update(state="running", exit_code=None)
    rounds: list[list[Outcome]] = []
    code = ExitCode.OK
    try:
        with StopRequest() as stop:  # between stages; a training has its own
            for steps in plan.rounds:
                rounds.append([])
                for step in steps:
                    code = runner.stopped(stop.reason) or runner.perform(step, rounds, console)
                    if code:
                        break
                if code or progress_of(plan.pipeline, rounds).reason:
                    break
    except BaseException as error:
        status.update(state="failed", reason=str(error) or type(error).__name__)
        raise
    if code:
        status.update(state="preempted" if code == ExitCode.PREEMPTED else "failed", exit_code=int(code))
        again = " ".join([*plan.pipeline.request.flags, *redact_overrides(plan.pipeline.request.overrides)])
        print(f"the pipeline is not finished; the same command goes on with it: bigtrain {again}")
        return code
    verdict = sentences(plan.pipeline, rounds, plan.notes)
    report = write_report(record, plan.pipeline, rounds, verdict)
    status.update(state="finished", exit_code=0, verdict=verdict)
    show_outcome(console, plan.pipeline, rounds, verdict, report)
    return code


class _Runner:
    """Performs steps. The key and the place of a step are known once the step that it starts from is finished."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self.root = Path(pipeline.output_dir).expanduser() / pipeline.name
        self._keys: dict[int, str] = {}
        self._fingerprints: dict[str, str] = {}

    def stopped(self, reason: str) -> ExitCode:
        """The exit code of a stop that was asked for between two stages; 0 without one."""
        if reason:
            print(f"stopped by {reason}, between two stages")
        return ExitCode.PREEMPTED if reason else ExitCode.OK

    def key(self, step: Step) -> str:
        """The step's key. Reads the data: what the step starts from must be finished."""
        if id(step) not in self._keys:
            from_scratch = step.control_of is not None  # the tokens it shares are in its data's fingerprint
            parent_key = "" if step.parent is None or from_scratch else self.key(step.parent)
            start = start_hash(self._start(step)) if step.start and not from_scratch else ""
            if step.trains:
                data = self._fingerprint(self._composed(step))
            else:  # data of its own may have changed, and is looked at again each time
                data = "" if step.composed.config.data.path is None else os.urandom(8).hex()
            self._keys[id(step)] = key_of(step, data, parent_key, start)
        return self._keys[id(step)]

    def place(self, step: Step) -> Path:
        """The directory of the step, whether it is there yet or not."""
        return place_of(self.root, step, self.key(step))

    def state(self, step: Step) -> str:
        """finished, begun or new; "" where the step that it starts from is not finished."""
        if step.parent is not None and self.state(step.parent) != "finished":
            return ""
        return state_of(self.place(step), step.trains)

    def perform(self, step: Step, rounds: list[list[Outcome]], console: SteadyConsole) -> ExitCode:
        """Runs a step, unless it is there already, and adds its outcome to the last round."""
        state, place = self.state(step), self.place(step)
        how = {"finished": "reused", "begun": "continued"}.get(state, "run")
        count = len(rounds[-1]) + 1
        of = f"round {step.round}, " if self.pipeline.iterate.max_rounds > 1 else ""
        console.print()
        console.rule(f"{of}stage {count}: {step.label} ({how})", align="left")
        seen = self._seen_before(step)
        for sentence in seen:
            print(printable(f"warning: {sentence}"), file=sys.stderr)
        if how == "reused":
            say(f"finished already: {short_path(place)}")
        else:
            code = self._train(step, place) if step.trains else self._evaluate(step, place)
            if code:
                return code
        rounds[-1].append(dataclasses.replace(read_outcome(step, self.key(step), place, how), seen=seen))
        return ExitCode.OK

    def _train(self, step: Step, place: Path) -> ExitCode:
        if state_of(place, trains=True) == "begun":
            words = (word("resume", str(place)),)
            request = request_of(self.pipeline, "train", (*self.pipeline.request.plugin_overrides, *words))
            composed = validate(compose(dataclasses.replace(request, config_name=None), require_run_directory))
        else:
            composed = self._composed(step)
        with _run_directory(place):
            return ExitCode(train.run(composed))

    def _seen_before(self, step: Step) -> list[str]:
        """Sentences on samples of its val and test that stages before it were trained on.

        Raises DataError where data.audit=fail and they are more than data.audit_limit.
        """
        sentences: list[str] = []
        origin = step.parent if step.trains and step.control_of is None else None
        while origin is not None:
            if origin.stage != step.stage:  # which the audit of its own data sees
                config = settled(self._composed(step)).config.data
                data, earlier = (self._data(self._composed(one)) for one in (step, origin))
                for split, count, total, unit in seen_before(data, config, earlier):
                    said = f"{count:,} of {total:,} {unit} of {split} stand in what {origin.stage} was trained on"
                    if config.audit is Audit.fail and count > config.audit_limit * total:
                        cause, fix = "data.audit=fail", "give that stage other texts; or data.audit=warn to train"
                        raise DataError.of("DATA-AUDIT", f"stage {step.stage}: {said}", cause=cause, fix=fix)
                    sentences += [said] if count else []
            origin = origin.parent
        return list(dict.fromkeys(sentences))

    def _evaluate(self, step: Step, place: Path) -> ExitCode:
        assert step.parent is not None
        words = (*step.overrides, word("checkpoint", str(self.place(step.parent))))
        composed = validate(compose(request_of(self.pipeline, "eval", words)))
        report = evaluation.evaluate(composed.config)
        evaluation.show(report)
        with durable.disk_errors(self.root):
            place.mkdir(parents=True, exist_ok=True)
            durable.replace_json(place / EVALUATION, report)
        return ExitCode.OK

    def _start(self, step: Step) -> Path:
        """The absolute path of its `start`: a folder or a checkpoint."""
        return Path(str(settled((step.control_of or step).composed).config.init_from))

    def _composed(self, step: Step) -> Composed:
        """The settings of a training, `init_from` and tokenizer of earlier steps included."""
        start = step.start or (str(self.place(step.parent)) if step.parent is not None else None)
        words = (*step.overrides, f"name={step.stage}", word("output_dir", self.pipeline.output_dir))
        request = request_of(self.pipeline, "train", words)
        if start is None:
            return validate(compose(request))
        begun = dataclasses.replace(request, overrides=(*words, word("init_from", start)))
        composed = validate(compose(begun))
        if step.control_of is None:
            return composed
        # From scratch, but with the same tokens: what is compared is the weights.
        data = settled(composed).config.data
        path = data.tokenizer_path
        if path is not None and path != composed.config.data.tokenizer_path:
            words += ("data.tokenizer=file", word("data.tokenizer_path", path))
            words += ("data.vocab_size=null",) if hasattr(data, "vocab_size") else ()
        return validate(compose(dataclasses.replace(request, overrides=words)))

    def _fingerprint(self, composed: Composed) -> str:
        config = settled(composed).config
        text = f"{config.data!r} {config.trainer.limit_samples} {config.trainer.overfit}"
        if text not in self._fingerprints:
            self._fingerprints[text] = self._data(composed).spec.fingerprint
        return self._fingerprints[text]

    def _data(self, composed: Composed) -> DataModule:
        config = settled(composed).config
        return build_data(config, brought_tokenizer(config, None))


def word(key: str, value: str) -> str:
    """The override key=value, escaped for Hydra's grammar."""
    return f"{key}={escape(value)}"


@contextlib.contextmanager
def _run_directory(place: Path) -> Iterator[None]:
    """Runs started meanwhile write into this directory."""
    os.environ[RUN_DIR_VARIABLE] = str(place.absolute())
    try:
        yield
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)


def _write_request(record: Path, plan: Plan) -> None:
    words = redact_overrides([*plan.pipeline.request.plugin_overrides, *plan.pipeline.request.overrides])
    with durable.disk_errors(record):
        durable.replace(record / "overrides.txt", "\n".join(words) + "\n")
