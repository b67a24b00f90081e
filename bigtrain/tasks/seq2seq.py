"""Sequence to sequence: predict a target text, token by token, from a source text; and write targets oneself.

How a target is searched for is `tasks/beam_search.py`'s business, how it is scored as text `tasks/text_scores.py`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.config.watched import GREEDY
from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import LanguageModelHead
from bigtrain.tasks.base import Batch, LossOutput, LossTerm, num_scored, perplexity
from bigtrain.tasks.beam_search import Hypothesis, Search, beam_search
from bigtrain.tasks.config import Generate, Seq2SeqTaskConfig
from bigtrain.tasks.generation import eagerly
from bigtrain.tasks.text_scores import text_scores, text_statistics


class Seq2Seq:
    """Head `seq2seq`; term `loss`, nats per scored token: the target's tokens and its end, each given those before.

    In evaluation the statistic is `correct`, the number of scored tokens that are the argmax. Of targets that the
    network writes itself, the statistics of `text_statistics`; or, where the source determines the target (an optimal
    loss of 0) and where there is no tokenizer, `exact` of `written`: how many equal the reference token for token.
    """

    needs_partners = False

    def __init__(self, config: Seq2SeqTaskConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        special = data_spec.special_tokens
        begin, end = (special.get(name, special.get("end_of_text")) for name in ("begin", "separator"))
        if data_spec.vocab_size is None or begin is None or end is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=seq2seq needs pairs of texts with marks of their ends, but this data gives {data_spec.kind}",
                fix="choose data that gives pairs, for instance data=synthetic/reverse, or another task",
            )
        self.data_spec = data_spec
        self.begin_id, self.end_id = begin, end
        self.search = Search(config.num_beams, config.length_penalty, config.max_length_factor)
        self._generate = config.generate
        self._vocab_size = data_spec.vocab_size
        self._label_smoothing = config.label_smoothing
        self._tokenizer = tokenizer

    def build_heads(self, hidden_size: int, model_config: object) -> dict[str, nn.Module]:
        """One output layer."""
        return {"seq2seq": LanguageModelHead(hidden_size, self._vocab_size)}

    def collate(self, samples: Batch, training: bool) -> Batch:
        """`target` (B, T+1), from its beginning to its end, → `inputs` and `targets` (B, T), UNSCORED after the end."""
        target, lengths_B = samples["target"], samples["target_lengths"] - 1
        padding = torch.arange(target.shape[1] - 1, device=target.device) >= lengths_B[:, None]
        return {
            "inputs": target[:, :-1].masked_fill(padding, 0),
            "targets": target[:, 1:].masked_fill(padding, UNSCORED),
            "lengths": lengths_B,
            "source": samples["source"],
            "source_lengths": samples["source_lengths"],
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Scored tokens."""
        return {"loss": num_scored(batch["targets"]).double()}

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sum of the cross entropy over scored tokens, with smoothed targets in training mode; statistics in eval
        mode.
        """
        targets_BT = batch["targets"]
        projection = network(batch["inputs"], **context_of(batch)).predictions["seq2seq"]
        smoothing = self._label_smoothing if network.training else 0.0
        term = LossTerm(projection.cross_entropy(targets_BT, smoothing), num_scored(targets_BT))
        if network.training:
            return LossOutput({"loss": term})
        correct = torch.count_nonzero(projection.logits().argmax(dim=-1) == targets_BT)
        return LossOutput({"loss": term}, {"correct": correct})

    def generated_statistics(self, network: nn.Module, batch: Batch, final: bool) -> dict[str, Tensor]:
        """Statistics of targets that the network writes itself; `final`: with all beams, whatever `generate` says."""
        if self._generate is Generate.none and not final:
            return {}
        greedy = self._generate is Generate.greedy and not final
        search = replace(self.search, num_beams=1) if greedy else self.search
        answers = [best[0].ids for best in self.answer(network, batch, search)]
        references = [row[row != UNSCORED][:-1].tolist() for row in batch["targets"].cpu()]
        if self._tokenizer is not None and self.data_spec.optimal_loss != 0:
            statistics = text_statistics(*([self.text(ids) for ids in side] for side in (answers, references)))
        else:
            exact = sum(answer == reference for answer, reference in zip(answers, references, strict=True))
            statistics = {"exact": torch.tensor(exact), "written": torch.tensor(len(answers))}
        prefix = GREEDY if search.num_beams < self.search.num_beams else ""  # another search, another metric
        return {prefix + name: value.to(batch["targets"].device) for name, value in statistics.items()}

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """`loss` (nats per token), `perplexity`, `token_accuracy`; of written targets `bleu` and `chrf`, or
        `exact_match` (`greedy_…` where more beams search for them at the end); and where known `excess` of the loss
        over the best possible.
        """
        loss = float(totals["loss.sum"] / totals["loss.count"])
        metrics = {"loss": loss, "perplexity": perplexity(loss)}
        metrics["token_accuracy"] = float(totals["correct"] / totals["loss.count"])
        for prefix in (GREEDY, ""):
            if f"{prefix}written" in totals:
                metrics[f"{prefix}exact_match"] = float(totals[f"{prefix}exact"] / totals[f"{prefix}written"])
            metrics |= text_scores(totals, prefix)
        if self.data_spec.optimal_loss is not None:
            metrics["excess"] = loss - self.data_spec.optimal_loss
        return metrics

    def answer(self, network: nn.Module, batch: Batch, search: Search | None = None) -> list[list[Hypothesis]]:
        """The best targets for each `source` of the batch, as many as there are beams at most; by default as the
        settings have it.
        """
        search = search or self.search
        limits_B = search.limits(batch["source_lengths"], network.backbone.max_length)  # type: ignore[union-attr]

        def step(ids_N1: Tensor, state: Any) -> tuple[Tensor, Any]:
            output = network(ids_N1, state)
            return output.predictions["seq2seq"].last_logits(), output.state

        was_training = network.training
        network.eval()
        try:
            with torch.inference_mode(), eagerly(network):
                state = network.backbone.start(  # type: ignore[union-attr, operator]
                    batch["source"], batch["source_lengths"], search.num_beams, int(limits_B.max())
                )
                return beam_search(step, state, limits_B, self.begin_id, self.end_id, search)
        finally:
            network.train(was_training)

    def text(self, ids: list[int]) -> str:
        """A written target as text."""
        assert self._tokenizer is not None
        return self._tokenizer.decode(np.array(ids, dtype=np.int64))
