"""Sequence to sequence: predict a target text, token by token, from a source text; and decode targets.

The search for a target is in `tasks/beam_search.py`, its scores as text are in `tasks/text_scores.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.run import GenerateConfig, RunConfig
from bigtrain.config.watched import GREEDY
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.loader import to_device
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import LanguageModelHead
from bigtrain.tasks.base import (
    Answer,
    Batch,
    Example,
    LossOutput,
    LossTerm,
    Shown,
    Task,
    evaluation_mode,
    num_scored,
    perplexity,
)
from bigtrain.tasks.beam_search import Hypothesis, Search, beam_search
from bigtrain.tasks.config import Generate, Seq2SeqTaskConfig
from bigtrain.tasks.generation import eagerly
from bigtrain.tasks.inputs import first_samples, prompt_tokens
from bigtrain.tasks.text_scores import text_scores, text_statistics

SHOWN_PAIRS = 8
FINAL_PAIRS = 3  # at the end of a run


class Seq2Seq(Task):
    """Head `seq2seq`; term `loss`, nats per scored token: the target's tokens and its end, each given the
    target before it.

    In evaluation the statistic is `correct`, the number of scored tokens that are the argmax. Of targets that the
    network writes itself, the statistics of `text_statistics`; or, where the source determines the target (an optimal
    loss of 0) and where there is no tokenizer, `exact` of `written`: how many equal the reference token for token.
    """

    searches = True

    def __init__(self, config: Seq2SeqTaskConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        special = data_spec.special_tokens
        begin, end = (special.get(name, special.get("end_of_text")) for name in ("begin", "separator"))
        if data_spec.vocab_size is None or begin is None or end is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=seq2seq needs pairs of texts with marks of their ends, but this data gives {data_spec.kind}",
                fix="choose data that gives pairs, for instance data=synthetic/reverse, or another task",
            )
        self.data_spec, self.tokenizer = data_spec, tokenizer
        self.begin_id, self.end_id = begin, end
        self.search = Search(config.num_beams, config.length_penalty, config.max_length_factor)
        self._generate = config.generate
        self._vocab_size = data_spec.vocab_size
        self._label_smoothing = config.label_smoothing

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
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
        """Statistics of targets that the network writes itself; `final`: with all beams, even if `generate` is none."""
        if self._generate is Generate.none and not final:
            return {}
        greedy = self._generate is Generate.greedy and not final
        search = replace(self.search, num_beams=1) if greedy else self.search
        answers = [best[0].ids for best in self.write(network, batch, search)]
        references = [row[row != UNSCORED][:-1].tolist() for row in batch["targets"].cpu()]
        if self.tokenizer is not None and self.data_spec.optimal_loss != 0:
            statistics = text_statistics(*([self.text(ids) for ids in side] for side in (answers, references)))
        else:
            exact = sum(answer == reference for answer, reference in zip(answers, references, strict=True))
            statistics = {"exact": torch.tensor(exact), "written": torch.tensor(len(answers))}
        prefix = GREEDY if search.num_beams < self.search.num_beams else ""  # not comparable with the final search
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

    def write(self, network: nn.Module, batch: Batch, search: Search | None = None) -> list[list[Hypothesis]]:
        """The best targets for each `source` of the batch, best first, at most as many as beams; `search`: by default
        that of the settings.
        """
        search = search or self.search
        limits_B = search.limits(batch["source_lengths"], network.backbone.max_length)  # type: ignore[union-attr]

        def step(ids_N1: Tensor, state: Any) -> tuple[Tensor, Any]:
            output = network(ids_N1, state)
            return output.predictions["seq2seq"].last_logits(), output.state

        with evaluation_mode(network), torch.inference_mode(), eagerly(network):
            state = network.backbone.start(  # type: ignore[union-attr, operator]
                batch["source"], batch["source_lengths"], search.num_beams, int(limits_B.max())
            )
            return beam_search(step, state, limits_B, self.begin_id, self.end_id, search)

    def text(self, ids: list[int]) -> str:
        """A written target as text."""
        assert self.tokenizer is not None
        return self.tokenizer.decode(np.array(ids, dtype=np.int64))

    def show(
        self, network: nn.Module, data: DataModule, config: RunConfig, seed: int, totals: dict[str, Tensor]
    ) -> Iterator[Shown]:
        """The targets that the network writes for the first validation sources."""
        if self.tokenizer is not None:
            yield "val/samples", self._written_pairs(network, data, "val", SHOWN_PAIRS)

    def final_example(self, network: nn.Module, data: DataModule, config: RunConfig) -> Example:
        """The targets of the first test sources, and the first source as the prompt."""
        if self.tokenizer is None:
            return Example()
        split = "test" if data.spec.sizes.get("test") else "val"
        written = self._written_pairs(network, data, split, FINAL_PAIRS)
        return Example(written, written.splitlines()[0].removeprefix("source").strip())

    def answers(self, network: nn.Module, config: RunConfig, asked: GenerateConfig) -> Answer | None:
        """The `num_samples` best targets, a line each."""
        search = self._search_for(asked)

        def answer(prompt: str, number: int) -> Iterator[str]:
            assert self.tokenizer is not None
            tokens_BS, lengths_B = prompt_tokens(prompt.strip(), self.tokenizer, self.data_spec.sequence_length)
            batch = {"source": tokens_BS, "source_lengths": lengths_B}
            found = self.write(network, to_device(batch, next(network.parameters()).device), search)[0]
            yield from (f"{self.text(hypothesis.ids)}\n" for hypothesis in found[: asked.num_samples])

        return answer

    def _search_for(self, asked: GenerateConfig) -> Search:
        """The settings' search, changed as asked; with at least as many beams as targets are asked for."""
        num_beams = asked.num_beams or max(self.search.num_beams, asked.num_samples)
        if num_beams < asked.num_samples:
            raise ConfigError.of(
                "GENERATE-SETTING",
                f"num_samples is {asked.num_samples}, but a search with num_beams={num_beams} finds no more than that",
                fix=f"num_beams={asked.num_samples}, or fewer samples",
            )
        penalty = self.search.length_penalty if asked.length_penalty is None else asked.length_penalty
        return replace(self.search, num_beams=num_beams, length_penalty=penalty, max_tokens=asked.max_tokens)

    def _written_pairs(self, network: nn.Module, data: DataModule, split: str, count: int) -> str:
        """Source, reference and the network's target for the first pairs of a split, a line each."""
        samples = first_samples(data, split, count)
        batch = to_device(self.collate(samples, training=False), next(network.parameters()).device)
        rows = []
        for row, hypotheses in enumerate(self.write(network, batch)):
            source, reference = (_inside(samples, side, row) for side in ("source", "target"))
            lines = {"source": source, "reference": reference, "written": hypotheses[0].ids}
            rows.append("\n".join(f"{name:9} {' '.join(self.text(ids).split())}" for name, ids in lines.items()))
        return "\n\n".join(rows)


def _inside(samples: Batch, side: str, row: int) -> list[int]:
    """The tokens of a text without the marks of its beginning and end."""
    ids: list[int] = samples[side][row, 1 : int(samples[f"{side}_lengths"][row]) - 1].tolist()
    return ids
