"""Masked language modelling (arXiv:1810.04805): predict hidden tokens of a text, and perhaps if another follows it.

How samples become texts is in `tasks/texts.py`, which of their tokens are hidden in `tasks/masking.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import MaskedLanguageModelHead, PooledHead
from bigtrain.tasks.base import Baselines, Batch, LossOutput, LossTerm, Task, num_scored, perplexity
from bigtrain.tasks.baselines import masked_token_baselines
from bigtrain.tasks.config import MaskedLanguageModelingConfig
from bigtrain.tasks.masking import choose, hide, num_slots, number_words, positions_of
from bigtrain.tasks.texts import Frame, Texts, one_text, sentence, two_texts

TOKENS, NEXT = "masked_language_model", "next_sentence"  # heads, and their loss terms
SHORTEST = 5  # tokens of a sequence: [CLS] A [SEP] B [SEP]


class MaskedLanguageModeling(Task):
    """Head and term `masked_language_model`, nats per hidden token; with `next_sentence` another of that name, nats per
    pair of texts.

    In evaluation the same tokens are hidden each time; the statistics are `masked_right` and `next_sentence_right`.
    Raises ConfigError for data without tokens, and for windows too short or not fit for `next_sentence`.
    """

    def __init__(self, config: MaskedLanguageModelingConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        _check_data(config, data_spec)
        self.data_spec, self.tokenizer = data_spec, tokenizer
        self.needs_partners = config.next_sentence
        self._next_sentence, self._rate = config.next_sentence, config.mask_rate
        self._mask_id, self._num_embeddings = data_spec.mask_id, data_spec.num_embeddings
        special = data_spec.special_tokens
        begin, separator = (special.get(name, special.get("end_of_text")) for name in ("begin", "separator"))
        self._frame = Frame(begin, separator)
        self._is_special = np.zeros(self._num_embeddings, dtype=bool)
        self._is_special[[self._mask_id, *special.values()]] = True
        self._begins_word = _beginnings_of_words(tokenizer) if config.whole_word else None

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """The heads of BERT; `model.norm_epsilon`, `init_std` and `num_embeddings` apply where the model has them.

        Raises ConfigError where there is no embedding for the mask.
        """
        epsilon, rows, std = model_config.norm_epsilon, model_config.num_embeddings, model_config.init_std or 0.02
        _require_a_row_for_the_mask(rows, self._num_embeddings)
        head = MaskedLanguageModelHead(hidden_size, self._num_embeddings, rows=rows, norm_epsilon=epsilon, std=std)
        heads: dict[str, nn.Module] = {TOKENS: head}
        if self._next_sentence:
            heads[NEXT] = PooledHead(hidden_size, 2)
        return heads

    def collate(self, samples: Batch, training: bool) -> Batch:
        """`inputs` (B, T), partly hidden; `positions` (B, M) of what to guess, and `targets` (B, M), UNSCORED where a
        row has less; M follows from T. With `next_sentence` also `segments` (B, T) and `labels` (B,); where a row is
        padded, `lengths` (B,). All int64.
        """
        arrays = {}
        if self._next_sentence:
            texts, arrays["labels"] = two_texts(samples, self._frame)
            arrays["segments"] = texts.segments
        else:
            texts = sentence(samples) if "lengths" in samples else one_text(samples, self._frame)
        if not texts.present.all():
            arrays["lengths"] = texts.present.sum(axis=1)
        arrays = self._hidden(samples["keys"].numpy().view(np.uint64), texts) | arrays
        return {name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for name, array in arrays.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Hidden tokens, and pairs of texts."""
        counts = {TOKENS: num_scored(batch["targets"]).double()}
        if self._next_sentence:
            counts[NEXT] = num_scored(batch["labels"]).double()
        return counts

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sums of the cross entropies; statistics in eval mode."""
        predictions = network(batch["inputs"], **context_of(batch)).predictions
        targets_BM = batch["targets"]
        projection = predictions[TOKENS].at(batch["positions"])
        output = LossOutput({TOKENS: LossTerm(projection.cross_entropy(targets_BM), num_scored(targets_BM))})
        if not network.training:
            output.statistics["masked_right"] = torch.count_nonzero(projection.argmax() == targets_BM)
        if self._next_sentence:
            labels_B, logits_BC = batch["labels"], predictions[NEXT]
            logits_BC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
            loss = F.cross_entropy(logits_BC, labels_B, ignore_index=UNSCORED, reduction="sum")
            output.terms[NEXT] = LossTerm(loss, num_scored(labels_B))
            if not network.training:
                right = torch.count_nonzero(logits_BC.argmax(dim=-1) == labels_B)
                output.statistics["next_sentence_right"] = right
        return output

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """`loss`, `masked_accuracy` and `perplexity`, of hidden tokens. With `next_sentence`, `loss` is the sum of the
        two terms, each also under its own name, and there is `next_sentence_accuracy`.
        """

        def mean(sum_name: str, term: str) -> float:
            return float(totals[sum_name] / totals[f"{term}.count"])

        loss = mean(f"{TOKENS}.sum", TOKENS)
        metrics = {
            "loss": loss,
            "masked_accuracy": mean("masked_right", TOKENS),
            "perplexity": perplexity(loss),
        }
        if self._next_sentence:
            next_loss = mean(f"{NEXT}.sum", NEXT)
            metrics |= {"loss": loss + next_loss, TOKENS: loss, NEXT: next_loss}
            metrics["next_sentence_accuracy"] = mean("next_sentence_right", NEXT)
        return metrics

    def baselines(self, data: DataModule, splits: Sequence[str]) -> Baselines:
        """`unigram_loss`, on the tokens that this task hides."""
        collate = lambda samples: self.collate(samples, training=False)  # noqa: E731
        return masked_token_baselines(data, splits, collate, self.needs_partners)

    def _hidden(self, keys_B: np.ndarray, texts: Texts) -> dict[str, np.ndarray]:
        """`inputs`, `positions` and `targets`."""
        tokens_BT = texts.tokens
        allowed_BT = texts.guessable & ~self._is_special[tokens_BT]
        words_BT = None
        if self._begins_word is not None:
            words_BT = number_words(self._begins_word[tokens_BT], allowed_BT)
        chosen_BT = choose(keys_B, allowed_BT, self._rate, words_BT)
        positions_BM, is_scored_BM = positions_of(chosen_BT, num_slots(self._rate, tokens_BT.shape[1]))
        return {
            "inputs": hide(keys_B, tokens_BT, chosen_BT, self._mask_id, np.flatnonzero(~self._is_special)),
            "positions": positions_BM,
            "targets": np.where(is_scored_BM, np.take_along_axis(tokens_BT, positions_BM, axis=1), UNSCORED),
        }


def _check_data(config: MaskedLanguageModelingConfig, data_spec: DataSpec) -> None:
    if data_spec.vocab_size is None:
        raise ConfigError.of(
            "TASK-DATA",
            f"task=masked_lm needs text, but this data gives {data_spec.kind}",
            fix="choose data that gives text, for instance data=python_docs, or another task",
        )
    if config.next_sentence and data_spec.kind != "text":
        raise ConfigError.of(
            "TASK-DATA",
            f"task.next_sentence=true needs a stream of text to cut in two, but this data gives {data_spec.kind}",
            fix="leave it out, or choose data that gives text, for instance data=python_docs",
        )
    if data_spec.sequence_length is not None and data_spec.sequence_length < SHORTEST:
        raise ConfigError.of(
            "TASK-DATA",
            f"data.sequence_length is {data_spec.sequence_length}; task=masked_lm needs at least {SHORTEST} tokens",
            fix=f"set data.sequence_length={SHORTEST} or more",
        )


def _require_a_row_for_the_mask(rows: int | None, needed: int) -> None:
    if rows is not None and rows < needed:
        raise ConfigError.of(
            "TASK-DATA",
            f"task=masked_lm hides tokens behind a mask of its own, but model.num_embeddings is {rows:,}, one for each "
            "token",
            cause="the tokenizer has no token for a mask",
            fix=f"model.num_embeddings={needed} adds one",
        )


def _beginnings_of_words(tokenizer: Tokenizer | None) -> np.ndarray:
    """(V,) bool, whether a token begins a word."""
    begins_V = None if tokenizer is None else tokenizer.begins_word()
    if begins_V is None:
        raise ConfigError.of(
            "TASK-DATA",
            "task.whole_word=true needs a tokenizer that knows where words begin, and this data has none",
            cause="bytes and characters are not parts of words, nor are tokens that were never text",
            fix="leave it out, or use data.tokenizer=wordpiece or bpe",
        )
    return begins_V
