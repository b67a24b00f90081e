"""What `bigtrain generate` answers where the checkpoint is a classifier of texts: the class and its probability."""

from __future__ import annotations

import sys

import torch

from bigtrain.commands.loading import Loaded
from bigtrain.data.text.ragged import Ragged
from bigtrain.distributed.world import World
from bigtrain.tracking.console import say
from bigtrain.training.samples import predictions_for

_SHOWN = 5  # likeliest classes


def classifies_texts(loaded: Loaded) -> bool:
    """Whether the checkpoint tells what class a text is of."""
    return loaded.spec.kind == "sentences" and hasattr(loaded.task, "predict")


def print_prediction(loaded: Loaded, text: str, world: World) -> None:
    """Prints one line, the likeliest class first: "positive 0.982, negative 0.018"."""
    names = loaded.spec.labels
    answers = sorted(zip(class_probabilities(loaded, text, world), names, strict=True), key=lambda answer: -answer[0])
    say(", ".join(f"{name} {probability:.3f}" for probability, name in answers[:_SHOWN]))


def class_probabilities(loaded: Loaded, text: str, world: World) -> list[float]:
    """By class. A text that is longer than those of the training is cut as they were, and the user told."""
    assert loaded.tokenizer is not None and loaded.spec.sequence_length is not None
    tokens, longest = Ragged.framed([text], loaded.tokenizer), loaded.spec.sequence_length
    if tokens.lengths[0] > longest:
        print(f"the text has {tokens.lengths[0]:,} tokens; its first {longest:,} are read", file=sys.stderr)
        tokens = tokens.truncated(longest)
    tokens_BT, lengths_B = tokens.padded([0])
    samples = {"tokens": tokens_BT, "lengths": lengths_B, "labels": torch.zeros(1, dtype=torch.int64)}
    answers: list[float] = predictions_for(loaded.network, loaded.task, samples, world.device)[0].tolist()
    return answers
