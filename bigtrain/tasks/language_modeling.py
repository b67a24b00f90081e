"""Language modelling: predict every next token. The loop that generates text is in `generation.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.run import GenerateConfig, RunConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError, DataError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import LanguageModelHead
from bigtrain.nn.ngram import NgramHead
from bigtrain.randomness import SeedDomain, mix
from bigtrain.tasks.base import (
    Answer,
    Baselines,
    Batch,
    Example,
    LossOutput,
    LossTerm,
    Shown,
    Task,
    num_scored,
    perplexity,
)
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate, stream, text_pieces
from bigtrain.tasks.inputs import first_samples
from bigtrain.tasks.ngram_baseline import ngram_baselines

PROMPT_TOKENS = 24  # of the validation text, where a sample is shown and `tracking.sample_prompt` is empty
SAMPLE_TEMPERATURE = 0.8


class LanguageModeling(Task):
    """Head `language_model`; term `loss`, nats per scored token."""

    def __init__(self, config: LanguageModelingConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        if data_spec.vocab_size is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=language_modeling needs text, but this data gives {data_spec.kind}",
                fix="choose data that gives text, for instance data=python_docs, or task=classification",
            )
        self.data_spec, self.tokenizer = data_spec, tokenizer
        self._vocab_size = data_spec.vocab_size
        self._label_smoothing = config.label_smoothing

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """One output layer; `model.logit_softcap`, `init_std` and `num_embeddings` apply where the model has them. For
        an n-gram model, its table of counts.
        """
        if model_config.counts:
            return {"language_model": self._ngram_head(model_config)}
        softcap, std, rows = model_config.logit_softcap, model_config.init_std, model_config.num_embeddings
        return {"language_model": LanguageModelHead(hidden_size, self._vocab_size, rows=rows, softcap=softcap, std=std)}

    def _ngram_head(self, model_config: Any) -> NgramHead:
        spec = self.data_spec
        assert spec.sequence_length is not None
        windows = spec.sizes["train"]
        return NgramHead(model_config.order, self._vocab_size, windows, spec.sequence_length, model_config.max_tokens)

    def collate(self, samples: Batch, training: bool) -> Batch:
        """`tokens` (B, T+1) and perhaps `scored` (B, T) → `inputs`, `targets` (B, T) int64, UNSCORED where
        not asked; `documents` as they are.
        """
        tokens = samples["tokens"]
        targets = tokens[:, 1:]
        if "scored" in samples:
            targets = targets.masked_fill(~samples["scored"], UNSCORED)
        batch = {"inputs": tokens[:, :-1].contiguous(), "targets": targets.contiguous()}
        return batch | {name: samples[name] for name in ("documents",) if name in samples}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Scored tokens."""
        return {"loss": num_scored(batch["targets"]).double()}

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sum of the cross entropy over scored tokens, with smoothed targets in training mode."""
        output = network(batch["inputs"], batch.get("state"), **context_of(batch))
        smoothing = self._label_smoothing if network.training else 0.0
        loss = output.predictions["language_model"].cross_entropy(batch["targets"], smoothing)
        return LossOutput({"loss": LossTerm(loss, num_scored(batch["targets"]))}, state=output.state)

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """`loss` (nats per token), `perplexity`, and where known `bits_per_byte` and `excess` over the best
        possible.
        """
        loss = float(totals["loss.sum"] / totals["loss.count"])
        metrics = {"loss": loss, "perplexity": perplexity(loss)}
        bytes_per_token = self.data_spec.bytes_per_token.get(split)
        if bytes_per_token:
            metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        if self.data_spec.optimal_loss is not None:
            metrics["excess"] = loss - self.data_spec.optimal_loss
        return metrics

    def show(
        self, network: nn.Module, data: DataModule, config: RunConfig, seed: int, totals: dict[str, Tensor]
    ) -> Iterator[Shown]:
        """A sample of generated text."""
        if self._writes(config):
            yield "val/sample", self._sample(network, data, config, seed)

    def final_example(self, network: nn.Module, data: DataModule, config: RunConfig) -> Example:
        """A sample of generated text, and its first word as the prompt."""
        if not self._writes(config):
            return Example()
        sample = self._sample(network, data, config, mix(config.seed, SeedDomain.FINAL_SAMPLE))
        assert self.tokenizer is not None
        return Example(sample, _first_word(self.tokenizer, sample))

    def answers(self, network: nn.Module, config: RunConfig, asked: GenerateConfig) -> Answer | None:
        """The prompt and its continuation, `num_samples` times."""
        if not self._writes(config):
            return None

        def answer(prompt: str, number: int) -> Iterator[str]:
            for sample in range(asked.num_samples):
                yield from self._continuation(network, asked, prompt, mix(asked.seed, number + sample))

        return answer

    def baselines(self, data: DataModule, splits: Sequence[str]) -> Baselines:
        """`unigram_loss`, `bigram_loss` and `5gram_loss`; none of a mixture, whose losses are weighted."""
        return Baselines() if data.dataset("train").sources else ngram_baselines(data, splits)

    def _writes(self, config: RunConfig) -> bool:
        """Whether text can be generated."""
        return self.tokenizer is not None and config.model.generates

    def _sample(self, network: nn.Module, data: DataModule, config: RunConfig, seed: int) -> str:
        """Prompt and continuation. Without a prompt in the settings, the beginning of the validation text."""
        tokenizer, settings = self.tokenizer, config.tracking
        assert tokenizer is not None
        if settings.sample_prompt:
            prompt = tokenizer.encode(settings.sample_prompt)
        else:
            prompt = first_samples(data, "val", 1)["tokens"][0, :PROMPT_TOKENS].numpy()
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        sampling, stop_id = Sampling(temperature=SAMPLE_TEMPERATURE), tokenizer.end_of_text
        new = generate(
            network, [prompt.tolist()], settings.sample_tokens, sampling, generator=generator, stop_id=stop_id
        )
        return tokenizer.decode(np.concatenate([prompt, new[0].cpu().numpy()]))

    def _continuation(self, network: nn.Module, asked: GenerateConfig, prompt: str, seed: int) -> Iterator[str]:
        """The prompt, the new text as soon as its characters are complete, and a line end."""
        tokenizer = self.tokenizer
        assert tokenizer is not None
        ids = tokenizer.encode(prompt)
        if not len(ids):  # no prompt, or one without tokens, as spaces are to WordPiece
            ids = _first_ids(tokenizer)
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        sampling, stop_id = Sampling(asked.temperature, asked.top_k, asked.top_p), tokenizer.end_of_text
        steps = stream(network, [ids.tolist()], asked.max_tokens, sampling, generator=generator, stop_id=stop_id)
        new_ids = takewhile(lambda new: new != stop_id, (int(ids_B[0]) for ids_B in steps))
        yield prompt
        yield from chain(text_pieces(tokenizer, ids.tolist(), new_ids), "\n")


def _first_ids(tokenizer: Tokenizer) -> np.ndarray:
    """The context of an empty prompt: the end of the text before, or a line end."""
    if tokenizer.end_of_text is not None:
        return np.array([tokenizer.end_of_text])
    try:
        ids = tokenizer.encode("\n")
    except DataError:  # a vocabulary without line ends
        ids = np.array([], dtype=np.int64)
    return ids if len(ids) else np.array([0])


def _first_word(tokenizer: Tokenizer, sample: str) -> str:
    """The first word of a sample; with a space after it where the tokenizer does not join that to the next word."""
    word = next(iter(sample.split()), "The")[:16]
    try:
        ids = tokenizer.encode(f"{word} ")
    except DataError:  # a vocabulary without the space
        return word
    whole = len(ids) == len(word) + 1  # a token per character; else the space is part of the next word's token
    return f"{word} " if whole else word
