"""`bigtrain generate`: a checkpoint's answer to a prompt; without one, an interactive prompt. Text is printed as it
comes; what a classifier answers is `commands/predict.py`'s business, a translation `commands/translate.py`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain, takewhile

import numpy as np
import torch

from bigtrain.commands.evaluated_data import training_data
from bigtrain.commands.loading import Loaded, load
from bigtrain.commands.predict import classifies_texts, print_prediction
from bigtrain.commands.translate import print_targets, refuse_beams, refuse_sampling
from bigtrain.config.compose import Composed
from bigtrain.config.run import GenerateConfig
from bigtrain.data.audit.seen import gist_digest, gists_of, why_not_compared
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.distributed.world import World, lone_world
from bigtrain.errors import ConfigError, DataError, ExitCode, printable
from bigtrain.randomness import mix
from bigtrain.tasks.generation import Sampling, stream, text_pieces
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.tracking.console import say

Answer = Callable[[str, int], None]  # prints what the checkpoint makes of a prompt; the number seeds the sampling


def run(composed: Composed) -> int:
    """Prints answers. Raises BigtrainError for a checkpoint that has none."""
    config: GenerateConfig = composed.config
    world = lone_world(config.gpus)
    loaded = load(config.checkpoint, world)
    answer = answer_of(loaded, config, world)
    if config.prompt is None:
        return interact(answer, loaded)
    answer(config.prompt, 0)
    return ExitCode.OK


def answer_of(loaded: Loaded, config: GenerateConfig, world: World) -> Answer:
    """What this checkpoint does with a prompt."""
    if isinstance(loaded.task, Seq2Seq):
        refuse_sampling(config)
        return noting_known_texts(loaded, lambda prompt, number: print_targets(loaded, config, prompt, world))
    refuse_beams(config)
    if classifies_texts(loaded):
        return noting_known_texts(loaded, lambda prompt, number: print_prediction(loaded, prompt, world))
    if loaded.tokenizer is not None and type(loaded.config.model).generates:
        return lambda prompt, number: print_continuations(loaded, config, prompt, number, world)
    raise ConfigError.of(
        "GENERATE-MODEL",
        f"{loaded.checkpoint.path} is a {composed_kind(loaded)}, which generates no text",
        fix="use bigtrain eval, or a checkpoint of a language model",
    )


def noting_known_texts(loaded: Loaded, answer: Answer) -> Answer:
    """The same, said on stderr where a text stands in the training data; not where that data is gone or too large."""
    own, settings = training_data(loaded), loaded.config.data
    if isinstance(own, str) or why_not_compared(own, settings, own):
        return answer
    known = gists_of(own, settings).get("train", np.empty(0, dtype=np.uint64))

    def answer_and_note(prompt: str, number: int) -> None:
        if np.any(known == gist_digest(prompt)):
            print("note: this text stands in the training data", file=sys.stderr)
        answer(prompt, number)

    return answer_and_note


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
        answer(line.rstrip("\n"), number)
        number += 1


def print_continuations(loaded: Loaded, config: GenerateConfig, prompt: str, number: int, world: World) -> None:
    """Prints `num_samples` continuations; the first is drawn with the generator of that number."""
    for sample in range(config.num_samples):
        print_continuation(loaded, config, prompt, number + sample, world)


def print_continuation(loaded: Loaded, config: GenerateConfig, prompt: str, number: int, world: World) -> None:
    """Prints the prompt and its continuation, the new text as soon as it is whole characters."""
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(prompt)
    if not len(ids):  # no prompt, or nothing that this tokenizer keeps, as spaces to WordPiece
        ids = first_ids(tokenizer)
    generator = torch.Generator(world.device).manual_seed(mix(config.seed, number))
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    steps = stream(
        loaded.network,
        [ids.tolist()],
        config.max_tokens,
        sampling,
        generator=generator,
        stop_id=tokenizer.end_of_text,
    )
    new_ids = takewhile(lambda new: new != tokenizer.end_of_text, (int(ids_B[0]) for ids_B in steps))
    say(prompt.removesuffix("\r"), end="")
    waiting = "\r" if prompt.endswith("\r") else ""  # half of a line end, perhaps
    for text in chain(text_pieces(tokenizer, ids.tolist(), new_ids), "\n"):
        text = waiting + text
        waiting = "\r" if text.endswith("\r") else ""
        say(text.removesuffix("\r"), end="")


def first_ids(tokenizer: Tokenizer) -> np.ndarray:
    """What an empty prompt starts from: the end of some text before, or a new line."""
    if tokenizer.end_of_text is not None:
        return np.array([tokenizer.end_of_text])
    try:
        ids = tokenizer.encode("\n")
    except DataError:  # a vocabulary without line ends
        ids = np.array([], dtype=np.int64)
    return ids if len(ids) else np.array([0])
