"""Masked language modelling: batches of one shape, two terms with their own counts, figures counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_networks import IMAGES, SENTENCES, TEXT, samples, tiny_config, tiny_network

from bigtrain.build import Parts
from bigtrain.data.base import DataSpec
from bigtrain.data.loader import keyed_samples
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer
from bigtrain.data.tokenizers.wordpiece import train_wordpiece
from bigtrain.errors import ConfigError
from bigtrain.models.config import BertConfig
from bigtrain.randomness import sample_keys
from bigtrain.tasks.base import evaluation_totals
from bigtrain.tasks.config import LanguageModelingConfig, MaskedLanguageModelingConfig
from bigtrain.tasks.masked_lm import NEXT, TOKENS, MaskedLanguageModeling

PLAIN = DataSpec("text", "", {"train": 8}, vocab_size=300, sequence_length=20)
WORDS = "the cat sat on the mat while unbelievably running dogs were barking loudly " * 40


def task_for(spec=PLAIN, tokenizer=None, **settings):
    return MaskedLanguageModeling(MaskedLanguageModelingConfig(**settings), spec, tokenizer)


def stream(length=2011, low=5, high=300, seed=0, sequence_length=20):
    tokens = np.random.default_rng(seed).integers(low, high, length)
    return TokenWindows(tokens.astype(np.uint16), sequence_length, "train")


def batch_of(task, dataset, ids, epoch=0, training=True):
    ids = np.array(ids)
    given = keyed_samples(dataset, ids, sample_keys(0, epoch, ids), task.needs_partners)
    return task.collate(given, training)


def restored(batch):
    """The tokens before any was hidden."""
    return batch["inputs"].scatter(1, batch["positions"], torch.where(batch["targets"] >= 0, batch["targets"], 0))


@pytest.mark.parametrize("next_sentence", [False, True])
def test_batches_are_the_same_for_any_company_and_anew_in_each_epoch(next_sentence):
    task, dataset = task_for(next_sentence=next_sentence), stream(2001)
    whole = batch_of(task, dataset, range(16))
    assert all(value.dtype == torch.int64 for value in whole.values())
    assert whole["inputs"].shape == (16, 20) and whole["positions"].shape == whole["targets"].shape == (16, 3)
    parts = [batch_of(task, dataset, ids) for ids in (range(5), range(5, 16))]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)
    assert not torch.equal(batch_of(task, dataset, range(16), epoch=1)["inputs"], whole["inputs"])
    again = batch_of(task, dataset, range(16), training=False)
    assert torch.equal(again["inputs"], whole["inputs"])


def test_what_is_hidden_can_be_put_back_and_nothing_else_is_changed():
    dataset = stream(2001)
    batch = batch_of(task_for(), dataset, range(16))
    tokens = dataset.gather(np.arange(16))["tokens"][:, :-1]
    full = batch["targets"] >= 0
    assert full.all() and torch.equal(restored(batch), tokens)
    assert (batch["positions"] > 0).all()
    masked = batch["inputs"] == 300  # the id after the vocabulary: this tokenizer has no mask
    assert 0.6 * full.sum() < masked.sum() < full.sum()


def test_special_tokens_stay_and_are_no_replacements():
    special = {"end_of_text": 7, "unknown": 9, "mask": 11, "padding": 0}
    spec = replace(PLAIN, vocab_size=14, special_tokens=special)
    dataset = stream(8001, low=5, high=12)
    task = task_for(spec, mask_rate=0.5)
    batch = batch_of(task, dataset, range(400))
    hidden = batch["targets"] != -100
    assert set(batch["targets"][hidden].tolist()) == {5, 6, 8, 10}
    assert (batch["inputs"][:, 0] == 7).all()  # end_of_text in place of [CLS]
    original = dataset.gather(np.arange(400))["tokens"][:, 1:-1]
    changed = batch["inputs"][:, 1:][batch["inputs"][:, 1:] != original]
    assert set(changed.tolist()) == {11} | set(range(14)) - set(special.values())


def test_the_last_window_is_padding_that_nothing_sees():
    dataset = stream(2006)
    batch = batch_of(task_for(), dataset, [3, len(dataset) - 1])
    assert batch["lengths"].tolist() == [20, 6]
    assert not batch["inputs"][1, 6:].any() and (batch["positions"][1][batch["targets"][1] >= 0] < 6).all()
    assert (batch["targets"][1] >= 0).sum() == 1  # 15 % of 5 tokens
    assert "lengths" not in batch_of(task_for(), dataset, [3, 4])


def test_sentences_are_masked_within_their_lengths():
    task = task_for(SENTENCES, mask_rate=0.3)
    given = samples(SENTENCES, 8)
    batch = task.collate(given, training=True)
    assert batch["lengths"].tolist() == given["lengths"].tolist()
    frame = torch.cat((given["tokens"][:, :1], given["tokens"].gather(1, given["lengths"][:, None] - 1)), dim=1)
    kept = torch.cat((batch["inputs"][:, :1], batch["inputs"].gather(1, given["lengths"][:, None] - 1)), dim=1)
    assert torch.equal(kept, frame)
    assert (batch["positions"] < batch["lengths"][:, None])[batch["targets"] >= 0].all()


@pytest.mark.parametrize("train", [train_wordpiece, lambda texts, size: train_bpe(texts, size, True)])
def test_whole_words_are_hidden_whole(train):
    tokenizer = train([WORDS], 300)
    tokens = tokenizer.encode("the cats running loudest matted believably while catting dogwhile " * 20)
    dataset = TokenWindows(tokens, 20, "train")
    spec = replace(PLAIN, vocab_size=tokenizer.vocab_size, special_tokens=tokenizer.special_ids)
    batch = batch_of(task_for(spec, tokenizer, whole_word=True, mask_rate=0.4), dataset, range(8))
    begins = tokenizer.begins_word()
    assert 0 < begins[tokens].mean() < 1
    original = restored(batch)
    several = 0
    for row, places, targets in zip(original, batch["positions"], batch["targets"], strict=True):
        hidden = set(places[targets >= 0].tolist())
        assert hidden
        for place in range(2, 20):
            if not begins[row[place]]:
                assert (place in hidden) == (place - 1 in hidden)
                several += place in hidden
    assert several


@pytest.mark.parametrize("tokenizer", [None, ByteTokenizer(True)])
def test_whole_words_without_words_are_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"whole_word=true needs a tokenizer that knows where words begin"):
        task_for(tokenizer=tokenizer, whole_word=True)


@pytest.mark.parametrize(
    ("spec", "settings", "said"),
    [
        (IMAGES, {}, "needs text, but this data gives images"),
        (SENTENCES, {"next_sentence": True}, "needs a stream of text to cut in two"),
        (replace(TEXT, sequence_length=4), {}, "sequence_length is 4; task=masked_lm needs at least 5"),
    ],
)
def test_data_that_does_not_do_is_refused(spec, settings, said):
    with pytest.raises(ConfigError, match=said):
        task_for(spec, **settings)


def test_metrics_are_those_counted_by_hand():
    settings = MaskedLanguageModelingConfig(next_sentence=True, mask_rate=0.3)
    task, network = tiny_network(tiny_config(BertConfig), task_config=settings)
    network.double().eval()
    totals, losses, right, pairs = {}, [], [], []
    for seed in (0, 1):
        batch = task.collate(samples(TEXT, 5 + seed, seed), training=False)
        with torch.no_grad():
            output = task.compute_loss(network, batch)
            predictions = network(batch["inputs"], segments=batch["segments"]).predictions
            hidden = network.backbone(batch["inputs"], segments=batch["segments"]).hidden
        for name, value in evaluation_totals(output).items():
            totals[name] = totals.get(name, 0) + value
        head = network.heads[TOKENS]
        for row, place in (batch["targets"] >= 0).nonzero().tolist():
            target = batch["targets"][row, place]
            vector = hidden[row, batch["positions"][row, place]]
            scores = head.norm(torch.nn.functional.gelu(head.transform(vector))) @ head.weight.t() + head.bias
            losses.append(-scores.log_softmax(-1)[target].detach())
            right.append(scores.argmax() == target)
        pairs += zip(predictions[NEXT].log_softmax(-1), batch["labels"], strict=True)
    metrics = task.metrics(totals, "val")
    loss = torch.stack(losses).mean()
    next_loss = -torch.stack([scores[label] for scores, label in pairs]).mean()
    assert metrics == pytest.approx(
        {
            "loss": float(loss + next_loss),
            TOKENS: float(loss),
            NEXT: float(next_loss),
            "perplexity": float(loss.exp()),
            "masked_accuracy": float(torch.stack(right).double().mean()),
            "next_sentence_accuracy": float(np.mean([int(scores.argmax()) == label for scores, label in pairs])),
        }
    )


def test_the_two_terms_have_their_own_counts():
    settings = MaskedLanguageModelingConfig(next_sentence=True)
    task, network = tiny_network(tiny_config(BertConfig), task_config=settings)
    given = samples(TEXT, 6)
    for name in ("scored", "partner_scored"):
        given[name] = torch.arange(12) < torch.tensor([12, 12, 12, 12, 2, 12])[:, None]  # one has no second half
    batch = task.collate(given, training=True)
    output, counts = task.compute_loss(network, batch), task.counts(batch)
    assert counts[NEXT] == 5 and counts[TOKENS] == (batch["targets"] >= 0).sum()
    assert {name: term.count.item() for name, term in output.terms.items()} == {
        name: count.item() for name, count in counts.items()
    }
    assert not output.statistics  # in training


def test_the_best_loss_of_a_language_model_is_none_of_this_task():
    data = SimpleNamespace(spec=replace(PLAIN, optimal_loss=0.5))
    best = {}
    for settings in (LanguageModelingConfig(), MaskedLanguageModelingConfig()):
        parts = Parts(SimpleNamespace(task=settings), data, None, None, None, None)
        best[type(settings)] = parts.optimal_loss
    assert best == {LanguageModelingConfig: 0.5, MaskedLanguageModelingConfig: None}


def test_a_pooler_that_nothing_reads_is_left_out():
    _, without = tiny_network(tiny_config(BertConfig), task_config=MaskedLanguageModelingConfig())
    _, with_pairs = tiny_network(tiny_config(BertConfig), task_config=MaskedLanguageModelingConfig(next_sentence=True))
    added = with_pairs.state_dict().keys() - without.state_dict().keys()
    assert {name.rpartition(".")[0] for name in added} == {"backbone.pooler", f"heads.{NEXT}.linear"}
    assert without.heads[TOKENS].weight is without.backbone.token_embedding.weight
