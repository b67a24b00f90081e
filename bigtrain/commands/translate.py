"""What `bigtrain generate` answers where the checkpoint turns one text into another: the targets that it finds best."""

from __future__ import annotations

import sys
from dataclasses import replace

from bigtrain.commands.loading import Loaded
from bigtrain.config.run import GenerateConfig
from bigtrain.data.loader import to_device
from bigtrain.data.text.ragged import Ragged
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.tasks.beam_search import Search
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.tracking.console import say


def refuse_sampling(config: GenerateConfig) -> None:
    """Raises ConfigError for settings that a search has no use for."""
    given = [name for name in ("top_k", "top_p") if getattr(config, name) is not None]
    if given:
        raise ConfigError.of(
            "GENERATE-SETTING",
            f"{given[0]} has no effect: a translation is searched for, not drawn",
            fix="leave it out, or give num_beams and length_penalty",
        )


def refuse_beams(config: GenerateConfig) -> None:
    """Raises ConfigError for settings that only a search has a use for."""
    given = [name for name in ("num_beams", "length_penalty") if getattr(config, name) is not None]
    if given:
        raise ConfigError.of(
            "GENERATE-SETTING",
            f"{given[0]} has no effect: only a translation is searched for, and this checkpoint does not translate",
            fix="leave it out; temperature=0 takes the likeliest token each time",
        )


def print_targets(loaded: Loaded, config: GenerateConfig, source: str, world: World) -> None:
    """Prints the `num_samples` best targets, one a line."""
    for text in best_targets(loaded, source, search_of(loaded, config), config.max_tokens, world)[: config.num_samples]:
        say(text)


def search_of(loaded: Loaded, config: GenerateConfig) -> Search:
    """As the run had it, but for what is given; at least as many beams as targets are asked for."""
    assert isinstance(loaded.task, Seq2Seq)
    search = loaded.task.search
    num_beams = config.num_beams or max(search.num_beams, config.num_samples)
    if num_beams < config.num_samples:
        raise ConfigError.of(
            "GENERATE-SETTING",
            f"num_samples is {config.num_samples}, but a search with num_beams={num_beams} finds no more than that",
            fix=f"num_beams={config.num_samples}, or fewer samples",
        )
    penalty = search.length_penalty if config.length_penalty is None else config.length_penalty
    return replace(search, num_beams=num_beams, length_penalty=penalty)


def best_targets(loaded: Loaded, source: str, search: Search, max_tokens: int, world: World) -> list[str]:
    """The best first. A source that is longer than those of the training is cut as they were, and the user told."""
    assert isinstance(loaded.task, Seq2Seq) and loaded.tokenizer is not None
    tokens, longest = Ragged.framed([source.strip()], loaded.tokenizer), loaded.spec.sequence_length
    if longest is not None and tokens.lengths[0] > longest:
        print(f"the text has {tokens.lengths[0]:,} tokens; its first {longest:,} are read", file=sys.stderr)
        tokens = tokens.truncated(longest)
    source_BS, source_lengths_B = tokens.padded([0])
    batch = to_device({"source": source_BS, "source_lengths": source_lengths_B}, world.device)
    found = loaded.task.answer(loaded.network, batch, replace(search, max_tokens=max_tokens))[0]
    return [loaded.task.text(hypothesis.ids) for hypothesis in found]
