"""n-grams as a network: counted from the windows of a text, carried over their borders, of any order."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import TEXT, tiny_network

from bigtrain.data.base import Dataset
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.models.config import NgramConfig
from bigtrain.nn.kneser_ney import KneserNey, contexts_of
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate

VOCAB_SIZE, LENGTH = 11, 12
STREAM = np.random.default_rng(0).zipf(1.5, 400) % 9
WINDOWS = TokenWindows(STREAM.astype(np.uint8), LENGTH, "train")


def counted(order=3, dataset=WINDOWS, smoothing=0.0, **changes):
    """(task, network in evaluation mode) of what was counted in a dataset."""
    spec = replace(TEXT, sizes={"train": len(dataset)})
    task, network = tiny_network(NgramConfig(order, **changes), 0, LanguageModelingConfig(smoothing), spec)
    network.heads["language_model"].count(dataset)
    return task, network.eval()


def head_of(network):
    return network.heads["language_model"]


@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
def test_windows_with_their_state_say_what_the_text_says(order):
    task, network = counted(order)
    text = torch.tensor(STREAM)[None]
    whole = KneserNey(order, VOCAB_SIZE, text)
    torch.testing.assert_close(head_of(network).discounts_of_orders(), whole.discounts, rtol=1e-6, atol=1e-2)
    discounts = head_of(network).discounts_of_orders()
    expected = whole.probabilities(contexts_of(text, order - 1)[0], text[0, 1:], discounts).log()
    state, nats = network.backbone.initial_state(1), 0.0
    for window in range(len(WINDOWS)):
        batch = task.collate(WINDOWS.gather(np.array([window])), training=False)
        output = task.compute_loss(network, batch | {"state": state})
        nats, state = nats + output.terms["loss"].sum, output.state
    torch.testing.assert_close(nats.double(), -expected.sum(), rtol=1e-6, atol=0)


def test_probabilities_add_up_to_one_and_are_those_of_the_loss():
    task, network = counted(order=4)
    batch = task.collate(WINDOWS.gather(np.arange(5)), training=False)
    predictions = network(batch["inputs"]).predictions["language_model"]
    logits = predictions.logits()
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(5, LENGTH))
    assert torch.equal(predictions.last_logits(), logits[:, -1])
    assert torch.equal(predictions.argmax(), logits.argmax(dim=-1))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(task.compute_loss(network, batch).terms["loss"].sum, expected)
    smoothed = predictions.cross_entropy(batch["targets"], 0.2)
    spread = -logits.mean(dim=-1).sum()
    torch.testing.assert_close(smoothed, 0.8 * expected + 0.2 * spread)


def test_in_training_each_token_is_left_out():
    task, network = counted(order=6)
    batch = task.collate(WINDOWS.gather(np.array([0])), training=True)
    learnt_by_heart = task.compute_loss(network, batch).terms["loss"].sum
    network.train()
    left_out = task.compute_loss(network, batch).terms["loss"].sum
    assert left_out > learnt_by_heart + 5
    left_out.backward()
    assert head_of(network).discounts.grad.isfinite().all()


def test_separate_samples_are_separate_texts():
    class Samples(Dataset):
        def __len__(self):
            return 8

        def gather(self, ids):
            tokens = torch.tensor([[1, 2, 3, 4, 5] * 2 + [6, 7, 8]] * 8)
            return {"tokens": tokens[ids], "scored": (torch.arange(LENGTH) >= 4).expand(len(ids), -1)}

    _, network = counted(order=3, dataset=Samples())
    assert head_of(network).model().tokens == 8 * 8 and not head_of(network).follow


def test_of_a_long_text_the_beginning_is_counted():
    with pytest.warns(UserWarning, match="the first 60 tokens of the training split are counted"):
        _, network = counted(max_tokens=5 * LENGTH)
    assert head_of(network).windows.shape == (5, LENGTH + 1) and head_of(network).model().tokens == 5 * LENGTH


def test_an_order_of_one_is_the_frequency_of_tokens():
    _, network = counted(order=1)
    tokens = generate(network, [[1]] * 2000, 1, Sampling(), generator=torch.Generator().manual_seed(0))
    share = float((tokens == 1).float().mean())
    assert share == pytest.approx(float((torch.tensor(STREAM[1:]) == 1).float().mean()), abs=0.05)


def test_what_never_occurred_has_a_probability():
    task, network = counted(order=5)
    unknown = {"tokens": torch.full((1, LENGTH + 1), VOCAB_SIZE - 1)}
    loss = task.compute_loss(network, task.collate(unknown, training=False)).terms["loss"]
    assert math.log(VOCAB_SIZE) < float(loss.sum.detach() / loss.count) < math.inf
