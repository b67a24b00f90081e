"""Language modelling: what is a target, what is counted, what is reported."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import IMAGES, TEXT, perturb, samples, tiny_config, tiny_network

from bigtrain.config.run import GenerateConfig, RunConfig
from bigtrain.errors import ConfigError
from bigtrain.models.config import BertConfig, TransformerConfig
from bigtrain.tasks.base import evaluation_totals
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.language_modeling import LanguageModeling


def task_for(**changes):
    return LanguageModeling(LanguageModelingConfig(), dataclasses.replace(TEXT, **changes))


def totals(loss_sum, count):
    return {
        "loss.sum": torch.tensor(loss_sum, dtype=torch.float64),
        "loss.count": torch.tensor(count, dtype=torch.float64),
    }


def test_targets_are_the_next_tokens_and_unscored_ones_are_not_counted():
    tokens = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    scored = torch.tensor([[True, False, True], [True, True, True]])
    batch = task_for().collate({"tokens": tokens, "scored": scored}, training=True)
    assert batch["inputs"].tolist() == [[5, 6, 7], [1, 2, 3]]
    assert batch["targets"].tolist() == [[6, -100, 8], [2, 3, 4]]
    assert tokens.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    count = task_for().counts(batch)["loss"]
    assert count == 5 and count.dtype == torch.float64
    assert task_for().counts(task_for().collate({"tokens": tokens}, training=True))["loss"] == 6


def test_loss_is_the_sum_over_scored_targets():
    task, network = tiny_network(tiny_config(TransformerConfig))
    perturb(network)
    tokens = samples(TEXT, 3)["tokens"]
    scored = torch.rand(3, 12) < 0.5
    batch = task.collate({"tokens": tokens, "scored": scored}, training=True)
    logits = network(tokens[:, :-1]).predictions["language_model"].logits()
    each = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    term = task.compute_loss(network, batch).terms["loss"]
    torch.testing.assert_close(term.sum, each[scored].sum(), rtol=1e-5, atol=1e-5)
    assert term.count == scored.sum() == task.counts(batch)["loss"]


def test_smoothed_targets_in_training_only():
    _, network = tiny_network(tiny_config(TransformerConfig))
    perturb(network)
    plain = task_for()
    task = LanguageModeling(LanguageModelingConfig(label_smoothing=0.1), TEXT)
    batch = task.collate(samples(TEXT, 3), training=True)
    logits, targets = network(batch["inputs"]).predictions["language_model"].logits(), batch["targets"]
    smoothed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(task.compute_loss(network, batch).terms["loss"].sum, smoothed)
    network.eval()
    assert task.compute_loss(network, batch).terms["loss"].sum == plain.compute_loss(network, batch).terms["loss"].sum


def test_metrics_of_a_known_loss():
    task = task_for(bytes_per_token={"val": 4.0}, optimal_loss=1.5)
    assert task.metrics(totals(200.0, 100), "val") == pytest.approx(
        {"loss": 2.0, "perplexity": math.exp(2), "bits_per_byte": 2 / math.log(2) / 4, "excess": 0.5}
    )
    assert set(task.metrics(totals(200.0, 100), "test")) == {"loss", "perplexity", "excess"}
    assert set(task_for().metrics(totals(200.0, 100), "val")) == {"loss", "perplexity"}


def test_perplexity_of_a_diverged_loss_is_infinite_not_an_error():
    assert task_for().metrics(totals(1e6, 1), "val")["perplexity"] == math.inf
    assert math.isnan(task_for().metrics(totals(math.nan, 1), "val")["perplexity"])


def test_totals_add_up_over_batches():
    task, network = tiny_network(tiny_config(TransformerConfig))
    perturb(network.double()).eval()
    batch = task.collate(samples(TEXT, 6), training=False)
    with torch.no_grad():
        whole = evaluation_totals(task.compute_loss(network, batch))
        parts = [
            evaluation_totals(task.compute_loss(network, dict(zip(batch, pair, strict=True))))
            for pair in zip(*(x.split((2, 4)) for x in batch.values()), strict=True)
        ]
    added = {key: parts[0][key] + parts[1][key] for key in whole}
    assert task.metrics(added, "val") == pytest.approx(task.metrics(whole, "val"), rel=1e-10)


def test_images_are_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="needs text"):
        LanguageModeling(LanguageModelingConfig(), IMAGES)


def test_nothing_is_written_by_a_model_that_does_not_generate_or_without_a_tokenizer():
    others = dict.fromkeys(("data", "task", "optimizer", "scheduler"))
    for model, tokenizer in ((BertConfig(), object()), (TransformerConfig(), None)):
        task, config = LanguageModeling(LanguageModelingConfig(), TEXT, tokenizer), RunConfig(model=model, **others)
        assert list(task.show(None, None, config, 0, {})) == []
        assert task.final_example(None, None, config) == ("", None)
        assert task.answers(None, config, GenerateConfig()) is None
