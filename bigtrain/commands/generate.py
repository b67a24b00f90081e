"""`bigtrain generate`: a checkpoint's answer to a prompt; without one, an interactive prompt.

What the answer is, and in which pieces it comes, is the task's `answers`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from bigtrain.commands.evaluated_data import training_data
from bigtrain.commands.loading import Loaded, load
from bigtrain.config.compose import Composed
from bigtrain.config.run import GenerateConfig
from bigtrain.data.audit.seen import gist_digest, gists_of, why_not_compared
from bigtrain.distributed.world import lone_world
from bigtrain.errors import ConfigError, ExitCode, printable
from bigtrain.tasks.base import Answer
from bigtrain.tracking.console import say


def run(composed: Composed) -> int:
    """Prints answers. Raises BigtrainError for a checkpoint that has none."""
    config: GenerateConfig = composed.config
    loaded = load(config.checkpoint, lone_world(config.gpus))
    answer = answer_of(loaded, config)
    if config.prompt is None:
        return interact(answer, loaded)
    print_pieces(answer(config.prompt, 0))
    return ExitCode.OK


def answer_of(loaded: Loaded, config: GenerateConfig) -> Answer:
    """What this checkpoint answers to a prompt. Raises ConfigError for one that answers nothing, and for settings that
    have no effect.
    """
    refuse_unused(config, loaded.task.searches)
    answer = loaded.task.answers(loaded.network, loaded.config, config)
    if answer is None:
        raise ConfigError.of(
            "GENERATE-MODEL",
            f"{loaded.checkpoint.path} is a {composed_kind(loaded)}, which generates no text",
            fix="use bigtrain eval, or a checkpoint of a language model",
        )
    # A prompt is compared with whole texts: windows of a stream have none.
    return answer if loaded.spec.kind == "text" else noting_known_texts(loaded, answer)


def refuse_unused(config: GenerateConfig, searches: bool) -> None:
    """Raises ConfigError for settings of sampling where the answer is searched for, and the other way round."""
    names = ("top_k", "top_p") if searches else ("num_beams", "length_penalty")
    given = [name for name in names if getattr(config, name) is not None]
    if searches:
        why = "a translation is searched for, not drawn"
        fix = "leave it out, or give num_beams and length_penalty"
    else:
        why = "only a translation is searched for, and this checkpoint does not translate"
        fix = "leave it out; temperature=0 takes the most probable token each time"
    if given:
        raise ConfigError.of("GENERATE-SETTING", f"{given[0]} has no effect: {why}", fix=fix)


def noting_known_texts(loaded: Loaded, answer: Answer) -> Answer:
    """The same answer, with a note on stderr where the prompt stands in the training data; without one where that data
    is gone or too large.
    """
    own, settings = training_data(loaded), loaded.config.data
    if isinstance(own, str) or why_not_compared(own, settings, own):
        return answer
    known = gists_of(own, settings).get("train", np.empty(0, dtype=np.uint64))

    def note_and_answer(prompt: str, number: int) -> Iterator[str]:
        if np.any(known == gist_digest(prompt)):
            print("note: this text stands in the training data", file=sys.stderr)
        yield from answer(prompt, number)

    return note_and_answer


def composed_kind(loaded: Loaded) -> str:
    """What the checkpoint is, for people."""
    return f"{type(loaded.config.model).__name__.removesuffix('Config')} for {loaded.spec.kind}"


def interact(answer: Answer, loaded: Loaded) -> int:
    """Reads prompts line by line until the input ends."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(printable(f"{loaded.checkpoint.path}: type a prompt and Enter; Ctrl-D ends"), file=sys.stderr)
    number = 0
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return ExitCode.OK
        print_pieces(answer(line.rstrip("\n"), number))
        number += 1


def print_pieces(pieces: Iterable[str]) -> None:
    """Prints each piece at once, but for a carriage return at its end, which may be the first half of a line end."""
    waiting = ""
    for piece in pieces:
        text = waiting + piece
        waiting = "\r" if text.endswith("\r") else ""
        say(text.removesuffix("\r"), end="")
