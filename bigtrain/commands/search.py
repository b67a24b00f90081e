"""`bigtrain -m sweep=optuna`: each trial's settings are chosen by the results of the trials before it."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.table import Table

from bigtrain.config.redact import redact_overrides
from bigtrain.errors import ExitCode
from bigtrain.storage import durable
from bigtrain.storage.run_directory import create_run_directory
from bigtrain.sweep.jobs import Sweep
from bigtrain.sweep.leaderboard import FILE, leaderboard_table
from bigtrain.sweep.loop import Progress, run_all, say
from bigtrain.sweep.processes import ProcessLauncher
from bigtrain.sweep.saved import FILE as WORDS
from bigtrain.sweep.saved import document_of
from bigtrain.sweep.search import Search
from bigtrain.sweep.study import JOURNAL, import_optuna
from bigtrain.sweep.trials import BEST, SearchedTrials
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.formatting import short_path

IMPORTANCE = "importance.png"

_FEWEST_FOR_IMPORTANCE = 5  # finished trials


def run(sweep: Sweep, search: Search, debug: bool = False) -> int:
    """Runs the trials, or resumes them; a trial that fails is shown and the others continue.

    Returns 0 once all have ended and one has finished, 75 if some are left, else the exit code of the first that
    failed. Raises ConfigError without optuna, MachineError where the sweep can't be recorded.
    """
    import_optuna()
    sweep_dir = search.resumed or create_run_directory(Path(sweep.output_dir) / sweep.name, "sweeps")
    with durable.disk_errors(sweep_dir):
        words = redact_overrides(["-m", *sweep.request.plugin_overrides, *sweep.request.overrides])
        durable.replace(sweep_dir / "overrides.txt", "\n".join(words) + "\n")
        durable.replace_json(sweep_dir / WORDS, document_of(sweep.request))
    source = SearchedTrials(sweep, search, sweep_dir)
    count = search.settings.trials
    title = f"sweep of {count} trial{'s' if count > 1 else ''}"
    goes_on = f"going on with the {title}, {len(source.all())} begun" if search.resumed else title
    say(f"{goes_on}: {short_path(sweep_dir)} (its *.log hold what the trials print)")
    say(f"  {search.metric}, {'higher' if search.higher_is_better else 'lower'} is better")
    for part in search.space:
        say(f"  {part}")
    for note in sweep.notes:
        say(f"note: {note}")

    def table() -> Table | None:
        trials = source.all()
        return leaderboard_table(title, trials) if trials else None

    at_once = min(search.settings.n_jobs, count)
    with Progress(sweep.heading, table, one_line=at_once == 1) as progress:
        code = run_all(source, ProcessLauncher(sweep.request, at_once, debug), progress)
    source.record()
    _conclude(sweep, source, sweep_dir, table())
    return _exit_code(source) if code is None else code


def _exit_code(source: SearchedTrials) -> int:
    trials = source.all()
    if any(trial.state not in ("finished", "pruned", "failed") for trial in trials):
        return ExitCode.PREEMPTED
    failed = [trial.exit_code for trial in trials if trial.state == "failed" and trial.exit_code]
    return failed[0] if failed and not any(trial.state == "finished" for trial in trials) else ExitCode.OK


def _conclude(sweep: Sweep, source: SearchedTrials, sweep_dir: Path, table: Table | None) -> None:
    path, request = short_path(sweep_dir), sweep.request
    lines = [f"leaderboard: {path}/{FILE}", f"study: {path}/{JOURNAL}", *_importance(source, sweep_dir)]
    if (sweep_dir / "experiment" / f"{BEST}.yaml").is_file():
        words = ["bigtrain", *request.plugin_overrides, "-cd", path]
        words += ["-cn", request.config_name] if request.config_name else []
        words += [f"hydra.searchpath=[{request.config_dir}]"] if request.config_dir else []
        lines += ["", "# a run with the best settings", shlex.join([*words, f"experiment={BEST}"])]
    lines += ["", "# curves and settings of all trials, side by side", shlex.join(["tensorboard", "--logdir", path])]
    if elsewhere := sum(trial.state == "running" for trial in source.all()):
        lines += ["", f"# another process looks after {elsewhere} of the trials"]
    elif source.left():
        words = ["bigtrain", "-m", f"resume={path}", *request.plugin_overrides]
        lines += ["", "# go on", shlex.join(words)]
    console = SteadyConsole()
    console.print()
    if table is not None:
        console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _importance(source: SearchedTrials, sweep_dir: Path) -> list[str]:
    """Draws the importance of each setting; returns lines to print."""
    finished = sum(trial.state == "finished" for trial in source.all())
    if finished < _FEWEST_FOR_IMPORTANCE:
        return [f"importance of the settings: {_FEWEST_FOR_IMPORTANCE} finished trials are needed, {finished} have"]
    shares = source.study.importance()
    if not shares:
        return ["importance of the settings: the finished trials do not differ enough to say"]
    from PIL import Image

    from bigtrain.tracking.figures import importance_bars

    image = Image.fromarray(importance_bars(shares, f"{finished} finished trials (PED-ANOVA)"))
    temporary = sweep_dir / f".tmp-{IMPORTANCE}"
    with durable.disk_errors(sweep_dir):
        image.save(temporary, format="PNG")
        temporary.replace(sweep_dir / IMPORTANCE)
    said = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
    return [f"importance of the settings: {said} ({short_path(sweep_dir / IMPORTANCE)})"]
