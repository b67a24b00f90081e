"""Classification: normalisation, counts, and every metric by hand."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import IMAGES, TEXT, VECTORS, perturb, samples, tiny_config, tiny_network
from torch import nn

from bigtrain.config.run import GenerateConfig
from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer
from bigtrain.errors import ConfigError
from bigtrain.models.network import NetworkOutput
from bigtrain.models.vision.config import CNNConfig
from bigtrain.tasks.base import evaluation_totals
from bigtrain.tasks.classification import Classification, macro_f1
from bigtrain.tasks.config import ClassificationConfig


class FixedLogits(nn.Module):
    """A network that says what it is told."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs, state=None, **context):
        return NetworkOutput({"classification": self.logits}, None)


def evaluate(logits, labels, num_classes):
    task = Classification(ClassificationConfig(), dataclasses.replace(IMAGES, num_classes=num_classes))
    output = task.compute_loss(FixedLogits(logits).eval(), {"inputs": labels, "labels": labels})
    return task.metrics(evaluation_totals(output), "val"), output.statistics


def test_images_are_normalised_per_channel():
    task = Classification(ClassificationConfig(), IMAGES)
    gathered = samples(IMAGES, 3)
    batch = task.collate(gathered, training=True)
    mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(batch["inputs"], (gathered["images"] / 255 - mean) / std)
    assert gathered["images"].dtype == torch.uint8 and batch["inputs"].dtype == torch.float32
    plain = Classification(ClassificationConfig(), dataclasses.replace(IMAGES, normalization={}))
    torch.testing.assert_close(plain.collate(gathered, training=True)["inputs"], gathered["images"] / 255)


def test_vectors_are_standardised_per_feature():
    task = Classification(ClassificationConfig(), VECTORS)
    gathered = samples(VECTORS, 3)
    before = gathered["vectors"].clone()
    batch = task.collate(gathered, training=True)
    mean, std = (torch.tensor(VECTORS.normalization[name]) for name in ("mean", "std"))
    torch.testing.assert_close(batch["inputs"], (before - mean) / std)
    assert (gathered["vectors"] == before).all() and batch["inputs"].dtype == torch.float32


def test_smoothed_targets_in_training_only():
    """By hand: ε = 0.4 over four classes puts 0.7 on the label and 0.1 on each other; UNSCORED counts for nothing."""
    task, plain = (Classification(ClassificationConfig(label_smoothing=share), IMAGES) for share in (0.4, 0.0))
    logits, labels = torch.randn(3, 4), torch.tensor([2, 0, -100])
    batch = {"inputs": labels, "labels": labels}
    log_p = logits.log_softmax(-1)
    targets = torch.full((2, 4), 0.1)
    targets[0, 2] = targets[1, 0] = 0.7
    network = FixedLogits(logits)
    torch.testing.assert_close(task.compute_loss(network, batch).terms["loss"].sum, -(targets * log_p[:2]).sum())
    network.eval()
    unsmoothed = F.cross_entropy(logits, labels, reduction="sum")
    assert task.compute_loss(network, batch).terms["loss"].sum == unsmoothed
    network.train()
    assert plain.compute_loss(network, batch).terms["loss"].sum == unsmoothed


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixed_sample_has_two_labels_by_their_shares(smoothing):
    """By hand: soft targets; the third sample's own label is UNSCORED, so it counts for nothing."""
    task = Classification(ClassificationConfig(label_smoothing=smoothing), IMAGES)
    gathered = samples(IMAGES, 3) | {"label_weight": torch.tensor([0.25, 0.9, 0.5])}
    gathered |= {"labels": torch.tensor([2, 0, -100]), "partner_labels": torch.tensor([1, 0, 3])}
    batch, logits = task.collate(gathered, training=True), torch.randn(3, 4)
    targets = torch.tensor([[0, 0.75, 0.25, 0], [1, 0, 0, 0]]) * (1 - smoothing) + smoothing / 4
    term = task.compute_loss(FixedLogits(logits), batch).terms["loss"]
    torch.testing.assert_close(term.sum, -(targets * logits.log_softmax(-1)[:2]).sum())
    assert term.count == task.counts(batch)["loss"] == 2


def test_excess_over_a_known_optimum():
    task = Classification(ClassificationConfig(), dataclasses.replace(IMAGES, optimal_loss=0.25))
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    totals = evaluation_totals(task.compute_loss(FixedLogits(logits).eval(), {"inputs": labels, "labels": labels}))
    metrics = task.metrics(totals, "val")
    assert metrics["excess"] == pytest.approx(metrics["loss"] - 0.25)


def test_metrics_by_hand():
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 2, 0], [0, 0, 4]])
    labels = torch.tensor([0, 1, 0, -100])  # the last one counts for nothing
    metrics, statistics = evaluate(logits, labels, 3)
    assert statistics["confusion"].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    expected_loss = -logits.log_softmax(-1)[[0, 1, 2], [0, 1, 0]].mean().item()
    assert metrics == pytest.approx(
        {"loss": expected_loss, "accuracy": 2 / 3, "macro_f1": (2 / 3 + 2 / 3) / 2}, rel=1e-6
    )


def test_macro_f1_by_hand():
    # class 0: TP 2, true 3, predicted 2 → 4/5; class 1: TP 1, true 1, predicted 2 → 2/3;
    # class 2 occurs as a label and is never hit → 0; class 3 does not occur → left out
    confusion = torch.tensor([[2.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert macro_f1(confusion) == pytest.approx((4 / 5 + 2 / 3) / 2)
    confusion[2, 0] = 1  # now class 0 is predicted 3 times → 4/6
    assert macro_f1(confusion) == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_of_precision_recall_harmonic_means(pairs):
    confusion = torch.zeros(5, 5)
    for true, predicted in pairs:
        confusion[true, predicted] += 1
    scores = []
    for c in {c for pair in pairs for c in pair}:
        hits = sum(pair == (c, c) for pair in pairs)
        precision = hits / max(1, sum(predicted == c for _, predicted in pairs))
        recall = hits / max(1, sum(true == c for true, _ in pairs))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert macro_f1(confusion) == pytest.approx(sum(scores) / len(scores))


def test_top5_only_where_there_are_more_than_five_classes():
    logits = torch.arange(7.0).repeat(3, 1)  # the five largest are 2 … 6
    metrics, _ = evaluate(logits, torch.tensor([2, 1, 6]), 7)
    assert metrics["top5_accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert "top5_accuracy" not in evaluate(logits[:, :5], torch.tensor([2, 1, 4]), 5)[0]


def test_statistics_only_in_eval_mode():
    task, network = tiny_network(tiny_config(CNNConfig))
    batch = task.collate(samples(IMAGES, 4), training=True)
    assert task.compute_loss(network, batch).statistics == {}
    assert set(task.compute_loss(network.eval(), batch).statistics) == {"confusion"}


def test_predictions_are_probabilities_of_the_same_logits():
    task, network = tiny_network(tiny_config(CNNConfig))
    perturb(network).eval()
    batch = task.collate(samples(IMAGES, 4), training=False)
    probabilities = task.predict(network, batch)
    assert probabilities.shape == (4, 4)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4))
    loss = -probabilities.log().gather(1, batch["labels"][:, None]).sum()
    torch.testing.assert_close(task.compute_loss(network, batch).terms["loss"].sum.detach(), loss)


def test_a_sentence_is_answered_by_its_most_probable_classes_and_an_image_not_at_all(capsys):
    labels = tuple("abcdef")
    spec = DataSpec("sentences", "", {}, vocab_size=257, sequence_length=8, num_classes=6, labels=labels)
    task = Classification(ClassificationConfig(), spec, ByteTokenizer(end_of_text=True))
    network = FixedLogits(torch.tensor([[0.2, 0.12, 0.3, 0.05, 0.25, 0.08]]).log()).train()
    answer = task.answers(network, None, GenerateConfig())
    assert list(answer("short", 0)) == ["c 0.300, e 0.250, a 0.200, b 0.120, f 0.080\n"] and network.training
    assert capsys.readouterr().err == ""
    assert len(list(answer("longer than eight", 0))) == 1
    assert capsys.readouterr().err == "the text has 19 tokens; its first 8 are read\n"
    assert Classification(ClassificationConfig(), IMAGES).answers(network, None, GenerateConfig()) is None


def test_text_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="needs labelled samples"):
        Classification(ClassificationConfig(), TEXT)
