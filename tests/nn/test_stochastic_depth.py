"""Stochastic depth drops whole samples of a branch, in training, and keeps its mean."""

import pytest
import torch
from tiny_networks import TEXT, drawn, tiny_config

from bigtrain.models.config import ProjectionInit, TransformerConfig
from bigtrain.models.transformer import Transformer
from bigtrain.nn.stochastic_depth import StochasticDepth, skip_probabilities


def test_samples_are_dropped_whole_and_the_mean_stays():
    torch.manual_seed(0)
    branch = torch.rand(4000, 3, 2) + 1
    dropped = StochasticDepth(0.25)(branch)
    ratio = dropped / branch
    torch.testing.assert_close(ratio, (ratio > 0) * 4 / 3)
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
    assert ratio.mean().item() == pytest.approx(1, abs=0.04)  # four standard errors


@pytest.mark.parametrize(("probability", "training"), [(0.5, False), (0.0, True)])
def test_otherwise_nothing_happens_and_nothing_is_drawn(probability, training):
    before = torch.get_rng_state()
    branch = torch.randn(5, 2)
    drawn = torch.get_rng_state()
    assert StochasticDepth(probability).train(training)(branch) is branch
    assert torch.equal(torch.get_rng_state(), drawn) and not torch.equal(before, drawn)


def test_probabilities_rise_in_a_straight_line():
    assert skip_probabilities(0.5, 4) == [0.125, 0.25, 0.375, 0.5]
    assert skip_probabilities(0.0, 2) == [0.0, 0.0]


def test_the_transformer_skips_in_training_only():
    config = tiny_config(TransformerConfig, stochastic_depth=0.6, projection_init=ProjectionInit.scaled)
    backbone = drawn(Transformer(config, TEXT))
    tokens = torch.randint(TEXT.vocab_size, (6, 5))
    assert not torch.equal(backbone(tokens).hidden, backbone(tokens).hidden)
    backbone.eval()
    assert torch.equal(backbone(tokens).hidden, backbone(tokens).hidden)
