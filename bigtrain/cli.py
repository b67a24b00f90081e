"""The command `bigtrain`: arguments in, exit code out. No torch until a command starts.

Takes the verb and the flags, has the settings composed and checked (config/), then calls
`commands/<verb>.py`. Here errors become text on stderr and exit codes; what a command does is not here.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bigtrain.config.habits import VERBS as OTHER_VERBS
from bigtrain.config.verbs import DEFAULT, VERBS
from bigtrain.errors import BigtrainError, ConfigError, ExitCode, Problem, is_memory_shortage, nearest, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; the entry point of the installed command."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    # A warning is a sentence for the user, without the line of code that raised it.
    warnings.formatwarning = lambda message, *_, **__: printable(f"warning: {message}\n")
    words = [word for word in words if word != "--debug"]
    try:
        code = _dispatch(words, debug)
        sys.stdout.flush()  # here, where a failure can still be said
    except BigtrainError as error:
        code = _report(error, error.exit_code, debug)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has ended (bigtrain | head), and the command has done its work
        _drop_output()
        code = ExitCode.OK
    except OSError as error:
        if is_memory_shortage(error):
            code = _report(_no_memory(error), ExitCode.ENVIRONMENT, debug)
        elif error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG):
            code = _report(_bug(error), ExitCode.BUG, debug)
        else:
            _drop_output()
            problem = Problem("OUTPUT", "can't write the output", error.strerror or str(error), "look at where it goes")
            code = _report(problem, ExitCode.ENVIRONMENT, debug)
    except Exception as error:
        known = is_memory_shortage(error)
        problem = _no_memory(error) if known else _bug(error)
        code = _report(problem, ExitCode.ENVIRONMENT if known else ExitCode.BUG, debug)
    return int(code)


def _bug(error: Exception) -> Problem:
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    fix = "run it again with --debug for the traceback (a run keeps it in its error.log), and report it"
    return Problem("BUG", "this is a bug of bigtrain's, not of yours", cause, fix)


def _no_memory(error: Exception) -> Problem:
    """Outside of training, which says more about it (commands/shortage.py)."""
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    return Problem("MEMORY", "there is not enough memory for this", cause, "ask for less at a time, or free memory")


def _drop_output() -> None:
    """Sends what is still buffered for stdout to nowhere, because Python would fail to write it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: BigtrainError | Problem, code: int, debug: bool) -> int:
    """Prints an error, after its traceback if that was asked for; returns the exit code."""
    with contextlib.suppress(BrokenPipeError):
        if debug:
            traceback.print_exc()
        print(error, file=sys.stderr, flush=True)
    return code


def _dispatch(words: list[str], debug: bool) -> int:
    verb = _take_verb(words)
    flags = _parse_flags(verb, words)
    if flags.version:
        from bigtrain import __version__

        print(f"bigtrain {__version__}")
        return ExitCode.OK
    if flags.shell_completion:
        return _shell_completion(flags)
    if flags.experimental_rerun or flags.config_path:
        flag = "--experimental-rerun" if flags.experimental_rerun else "-cp"
        fix = "use -cd DIR to add a folder of configs" if flag == "-cp" else "give the words again"
        raise ConfigError.of("CONFIG-FLAG", f"{flag} is not supported", fix=fix)
    return _compose_and_run(verb, flags, debug)


def _take_verb(words: list[str]) -> str:
    """Removes the verb from the arguments, because Hydra would take it for an override."""
    if not words or words[0].startswith(("-", "+", "~")) or "=" in words[0]:
        return DEFAULT
    first = words[0]
    if first in VERBS:
        return words.pop(0)
    cause = f'command line, "{first}"'
    message = f"{first!r} is not a verb"
    if known := OTHER_VERBS.get(first.lower().lstrip("-")):
        path = next((word for word in words[1:] if "=" not in word and word[0] not in "-+~"), "<run directory>")
        raise ConfigError.of("CONFIG-VERB", message, cause=cause, fix=known.format(path=path))
    near = nearest(first.lower(), VERBS)
    fix = f"did you mean bigtrain {near[0]} ?" if near else f"the verbs are {', '.join(VERBS)}."
    raise ConfigError.of("CONFIG-VERB", message, cause=cause, fix=f"{fix} Settings are key=value")


class _Parser(argparse.ArgumentParser):
    """Hydra's flags; a wrong one is a ConfigError instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if unknown.startswith("-"):
            message = f"{unknown} is not a flag"
        raise ConfigError.of("CONFIG-FLAG", message, cause="command line", fix="bigtrain --help lists the flags")

    @property
    def options(self) -> list[str]:
        """Every flag, in its long and its short form."""
        return [option for action in self._actions for option in action.option_strings]


def _parse_flags(verb: str, words: list[str]) -> argparse.Namespace:
    from bigtrain.config.hydra_adapter import flags_parser

    parser = _Parser(add_help=False, allow_abbrev=False, conflict_handler="resolve", parents=[flags_parser()])
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    if any(word[:1] == "-" and word.partition("=")[0] not in parser.options for word in words):
        from bigtrain.config.flags import refuse_dashes

        refuse_dashes(verb, words, parser.options)
    flags = parser.parse_intermixed_args(_without_ambiguity(words))
    if flags.resolve and not flags.cfg:
        raise ConfigError.of("CONFIG-FLAG", "--resolve goes with --cfg", fix="bigtrain --cfg job --resolve")
    return flags


def _without_ambiguity(words: list[str]) -> list[str]:
    """`--info model=cnn` means `--info all model=cnn`: a flag's optional value is never key=value."""
    pairs = zip(words, [*words, ""][1:], strict=True)
    return [f"{word}=all" if word == "--info" and "=" in after else word for word, after in pairs]


def _compose_and_run(verb: str, flags: argparse.Namespace, debug: bool) -> int:
    from bigtrain.config.compose import Request, compose, validate
    from bigtrain.config.hydra_adapter import forget_facts
    from bigtrain.config.overrides import is_of_pipeline, take_paths
    from bigtrain.config.plugins import load_plugins, take_plugins

    gc.disable()  # a composition frees almost nothing, and collecting meanwhile takes a tenth of a --help
    try:
        plugins, words = take_plugins(flags.overrides)
        load_plugins(plugins)
        paths, words = take_paths(verb, words)
        request = Request(verb, words, flags.config_name, flags.config_dir, plugins, paths)
        if verb == "train" and any(map(is_of_pipeline, words)):
            return _pipeline(request, flags)
        if flags.dry_run:
            fix = "bigtrain --cfg job prints what a run would be made of"
            raise ConfigError.of("CONFIG-FLAG", "--dry-run goes with pipeline=", fix=fix)
        displays = flags.help or flags.hydra_help or flags.cfg or flags.info
        if flags.multirun:
            from bigtrain.sweep.jobs import expand, validated

            sweep = expand(request)
            # A display shows the first job; --cfg shows every one.
            shown = sweep.jobs if flags.cfg else sweep.jobs[:1]
            compositions = [compose(sweep.request_of(job)) for job in shown] if displays else []
        else:
            compositions = [compose(request, _find_run)]
        if displays:
            from bigtrain.config.display import display

            for number, composition in enumerate(compositions):
                heading = f"---\n# {sweep.heading(sweep.jobs[number])}\n" if flags.multirun and flags.cfg else ""
                sys.stdout.write(heading + display(composition, flags))
            return ExitCode.OK
        if flags.multirun:
            sweep = validated(sweep)
        else:
            composed = validate(compositions[0])
    finally:
        gc.enable()
        forget_facts()
    if flags.multirun:
        return int(_command("sweep").run(sweep, debug))
    return int(_command(VERBS[verb].command).run(composed))


def _command(name: str) -> Any:
    """The module of a command. It imports PyTorch, which takes seconds on a busy machine, so a terminal shows it."""
    from bigtrain.tracking.status_line import status_line

    gc.disable()  # nothing imported becomes garbage, and collecting meanwhile takes a tenth of the import
    try:
        with status_line("Loading PyTorch", "") if sys.stderr.isatty() else contextlib.nullcontext():
            module = importlib.import_module(f"bigtrain.commands.{name}")
        gc.freeze()  # later collections, and the one when Python exits, pass over PyTorch's 300,000 objects: 0.1 s each
    finally:
        gc.enable()
    return module


def _pipeline(request: Any, flags: argparse.Namespace) -> int:
    """Runs pipeline=NAME, or shows it; all its steps are composed before the first one starts."""
    from bigtrain.pipeline.definition import read_pipeline
    from bigtrain.pipeline.plan import displayed, make_plan

    if flags.multirun or flags.info or flags.hydra_help or flags.config_name:
        flag = "-m" if flags.multirun else "-cn" if flags.config_name else "--info"
        fix = "give the pipeline alone; --cfg job prints what each of its stages is made of, --dry-run what would run"
        raise ConfigError.of("CONFIG-PIPELINE", f"{flag} and pipeline= can't go together", fix=fix)
    pipeline = read_pipeline(request)
    if flags.help or flags.cfg:
        from bigtrain.config.display import display

        for heading, composition in displayed(pipeline):
            sys.stdout.write(display(composition, flags) if flags.help else heading + display(composition, flags))
            if flags.help:
                break
        return ExitCode.OK
    plan = make_plan(pipeline)
    gc.enable()
    return int(_command("pipeline").run(plan, flags.dry_run))


def _find_run(where: str, folder: Path) -> Path | None:
    from bigtrain.distributed.environment import rank_environment
    from bigtrain.storage.run_directory import find_run_of_name, require_run_directory

    if where != "auto":
        return require_run_directory(where, folder)
    run, environment = find_run_of_name(folder), rank_environment(os.environ)
    if environment is None or environment.rank == 0:
        print(f"resume=auto: {run or 'a new run'}", file=sys.stderr, flush=True)
    return run


def _shell_completion(flags: argparse.Namespace) -> int:
    """Answers `-sc install=SHELL`, `-sc uninstall=SHELL` and `-sc query=SHELL`."""
    action, _, shell = (flags.overrides or [""])[0].partition("=")
    shells = ("bash", "zsh", "fish")
    if len(flags.overrides) != 1 or action not in ("install", "uninstall", "query") or shell not in shells:
        fix = f"-sc install=SHELL or uninstall=SHELL, where SHELL is one of {', '.join(shells)}"
        raise ConfigError.of("CONFIG-FLAG", "-sc is told what to do by one word", fix=fix)
    if action == "query":
        from bigtrain.config.completion import complete

        line = os.environ.get("COMP_LINE", "")
        line = line[: int(os.environ.get("COMP_POINT") or len(line))]
        print(("\n" if shell == "fish" else " ").join(complete(line)))
        return ExitCode.OK
    from bigtrain.config.hydra_adapter import hydra_completion_script

    sys.stdout.write(hydra_completion_script(action, shell))
    return ExitCode.OK


if __name__ == "__main__":  # python -m bigtrain.cli is bigtrain, too
    raise SystemExit(main())
