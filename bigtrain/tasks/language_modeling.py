"""Language modelling: predict every next token. Generation from the trained network is in `generation.py`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.heads import LanguageModelHead
from bigtrain.nn.ngram import NgramHead
from bigtrain.tasks.base import Batch, LossOutput, LossTerm, num_scored, perplexity
from bigtrain.tasks.config import LanguageModelingConfig


class LanguageModeling:
    """Head `language_model`; term `loss`, nats per scored token."""

    needs_partners = False

    def __init__(self, config: LanguageModelingConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        if data_spec.vocab_size is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=language_modeling needs text, but this data gives {data_spec.kind}",
                fix="choose data that gives text, for instance data=python_docs, or task=classification",
            )
        self.data_spec = data_spec
        self._vocab_size = data_spec.vocab_size
        self._label_smoothing = config.label_smoothing

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """One output layer; `model.logit_softcap`, `init_std` and `num_embeddings` apply where the model has them. Of a
        model that counts, the counts.
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
        not asked.
        """
        tokens = samples["tokens"]
        targets = tokens[:, 1:]
        if "scored" in samples:
            targets = targets.masked_fill(~samples["scored"], UNSCORED)
        return {"inputs": tokens[:, :-1].contiguous(), "targets": targets.contiguous()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Scored tokens."""
        return {"loss": num_scored(batch["targets"]).double()}

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sum of the cross entropy over scored tokens, with smoothed targets in training mode."""
        output = network(batch["inputs"], batch.get("state"))
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
