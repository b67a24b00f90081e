"""Sequence to sequence: what is a target, what is counted, and what written targets are scored by."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import IMAGES, PAIRS, perturb, samples, tiny_config, tiny_network

from bigtrain.config.run import EarlyStoppingConfig
from bigtrain.config.watched import at_the_end, watched_metric
from bigtrain.data.tokenizers.tokenizer import CharTokenizer
from bigtrain.errors import ConfigError
from bigtrain.models.config import Seq2SeqConfig
from bigtrain.tasks.base import evaluation_totals
from bigtrain.tasks.config import Generate, Seq2SeqTaskConfig
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.tasks.text_scores import text_scores, text_statistics

LETTERS = CharTokenizer("abcdefghi ", end_of_text=True)  # eleven ids, as PAIRS has
HYPOTHESES = ["the cat sat on the mat .", "a dog", "two men are walking down the street today"]
REFERENCES = ["the cat is on the mat .", "one black dog runs", "two men walk down the street today"]


def task_for(tokenizer=None, spec=PAIRS, **settings):
    return Seq2Seq(Seq2SeqTaskConfig(**settings), spec, tokenizer)


def network_for(**settings):
    _, network = tiny_network(tiny_config(Seq2SeqConfig, **settings), spec=PAIRS)
    return perturb(network)


def test_the_target_is_read_up_to_its_last_token_and_asked_from_its_first():
    pairs = {
        "source": torch.tensor([[10, 5, 10], [10, 10, 0]]),
        "source_lengths": torch.tensor([3, 2]),
        "target": torch.tensor([[10, 1, 2, 10], [10, 3, 10, 0]]),
        "target_lengths": torch.tensor([4, 3]),
    }
    before = {name: value.clone() for name, value in pairs.items()}
    batch = task_for().collate(pairs, training=True)
    assert batch["inputs"].tolist() == [[10, 1, 2], [10, 3, 0]]
    assert batch["targets"].tolist() == [[1, 2, 10], [3, 10, -100]]
    assert batch["lengths"].tolist() == [3, 2]
    assert torch.equal(batch["source"], pairs["source"])
    count = task_for().counts(batch)["loss"]
    assert count == 5 and count.dtype == torch.float64
    assert all(torch.equal(pairs[name], value) for name, value in before.items())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_sum_over_tokens_smoothed_in_training_only(smoothing):
    task, network = task_for(label_smoothing=smoothing), network_for()
    batch = task.collate(samples(PAIRS, 5), training=True)
    context = {name: batch[name] for name in ("lengths", "source", "source_lengths")}
    logits = network(batch["inputs"], **context).predictions["seq2seq"].logits().flatten(0, 1)
    for training in (True, False):
        network.train(training)
        expected = F.cross_entropy(
            logits, batch["targets"].flatten(), reduction="sum", label_smoothing=smoothing * training
        )
        output = task.compute_loss(network, batch)
        torch.testing.assert_close(output.terms["loss"].sum, expected, rtol=1e-5, atol=1e-5)
        assert output.terms["loss"].count == task.counts(batch)["loss"] == (batch["targets"] >= 0).sum()
    correct = (logits.argmax(-1) == batch["targets"].flatten()).sum()
    assert output.statistics["correct"] == correct


def learnt_by_heart(task, network, pairs):
    """The network after it has learnt the pairs."""
    batch = task.collate(pairs, training=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        term = task.compute_loss(network, batch).terms["loss"]
        if term.sum / term.count < 0.01:
            break
        (term.sum / term.count).backward()
        optimizer.step()
    return network.eval()


def test_what_was_learnt_is_written_and_exact_and_what_is_damaged_is_not():
    task, network = task_for(generate=Generate.beam), tiny_network(tiny_config(Seq2SeqConfig), spec=PAIRS)[1]
    pairs = samples(PAIRS, 8)
    learnt_by_heart(task, network, pairs)
    batch = task.collate(pairs, training=False)
    best = [hypotheses[0].ids for hypotheses in task.write(network, batch)]
    lengths = pairs["target_lengths"].tolist()
    assert best == [pairs["target"][row, 1 : length - 1].tolist() for row, length in enumerate(lengths)]
    totals = evaluation_totals(task.compute_loss(network, batch)) | task.generated_statistics(network, batch, False)
    metrics = task.metrics(totals, "val")
    assert metrics["exact_match"] == metrics["token_accuracy"] == 1
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    batch["targets"][2, 1] = (batch["targets"][2, 1] + 1) % 10
    damaged = task.generated_statistics(network, batch, False)
    assert damaged["exact"] == 7 and damaged["written"] == 8


def recording(answer, searches):
    """`answer`, with the beams of each search written down."""

    def recorded(network, batch, search):
        searches.append(search.num_beams)
        return answer(network, batch, search)

    return recorded


def test_validation_writes_as_asked_and_the_last_evaluation_with_all_beams(monkeypatch):
    network, pairs = network_for(), samples(PAIRS, 2)
    searches = []
    for generate in Generate:
        task = task_for(generate=generate, num_beams=3)
        batch = task.collate(pairs, training=False)
        monkeypatch.setattr(task, "write", recording(task.write, searches))
        during, last = (set(task.generated_statistics(network, batch, final)) for final in (False, True))
        assert last == {"exact", "written"}
        greedy = {"greedy_exact", "greedy_written"}  # another search has another name
        assert during == {Generate.none: set(), Generate.greedy: greedy, Generate.beam: last}[generate]
    assert searches == [3, 1, 3, 3, 3]


@pytest.mark.parametrize(
    ("settings", "watched"),
    [({}, "greedy_bleu"), ({"num_beams": 1}, "bleu"), ({"generate": Generate.beam}, "bleu")],
)
def test_a_metric_of_written_targets_means_one_search(settings, watched):
    config = Seq2SeqTaskConfig(**settings)
    assert watched_metric(EarlyStoppingConfig(metric="bleu"), config) == (watched, True)
    assert watched_metric(EarlyStoppingConfig(), config) == ("loss", False)
    assert at_the_end(watched) == "bleu"


def test_written_text_is_scored_as_sacrebleu_scores_it_however_it_is_batched():
    from sacrebleu import corpus_bleu, corpus_chrf

    parts = [text_statistics(HYPOTHESES[part], REFERENCES[part]) for part in (slice(1), slice(1, 3))]
    totals = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    scores = text_scores(totals)
    assert scores["bleu"] == pytest.approx(corpus_bleu(HYPOTHESES, [REFERENCES]).score, abs=1e-9) != 0
    assert scores["chrf"] == pytest.approx(corpus_chrf(HYPOTHESES, [REFERENCES]).score, abs=1e-9) != 0
    perfect = text_scores(text_statistics(REFERENCES, REFERENCES))
    assert perfect == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert text_scores({}) == {}


def test_text_counts_where_the_source_does_not_decide_the_target():
    network, pairs = network_for(), samples(PAIRS, 3)
    task = task_for(LETTERS)
    batch = task.collate(pairs, training=False)
    statistics = task.generated_statistics(network, batch, True)
    texts = [task.text(hypotheses[0].ids) for hypotheses in task.write(network, batch)]
    targets = zip(pairs["target"].numpy(), pairs["target_lengths"].tolist(), strict=True)
    references = [LETTERS.decode(target[1 : length - 1]) for target, length in targets]
    expected = text_statistics(texts, references)
    assert set(statistics) == {"bleu", "chrf"}
    assert all(torch.equal(statistics[name], value) for name, value in expected.items())
    sure = task_for(LETTERS, dataclasses.replace(PAIRS, optimal_loss=0.0))
    assert set(sure.generated_statistics(network, batch, True)) == {"exact", "written"}
    totals = evaluation_totals(sure.compute_loss(network.eval(), batch))
    assert sure.metrics(totals, "val")["excess"] == sure.metrics(totals, "val")["loss"]


def test_data_without_pairs_or_marks_is_refused():
    for spec in (IMAGES, dataclasses.replace(PAIRS, special_tokens={})):
        with pytest.raises(ConfigError, match="pairs of texts"):
            task_for(spec=spec)
    marked = dataclasses.replace(PAIRS, special_tokens={"end_of_text": 3, "begin": 4, "separator": 5})
    assert (task_for(spec=marked).begin_id, task_for(spec=marked).end_id) == (4, 5)
    plain = dataclasses.replace(PAIRS, special_tokens={"end_of_text": 3})
    assert (task_for(spec=plain).begin_id, task_for(spec=plain).end_id) == (3, 3)
