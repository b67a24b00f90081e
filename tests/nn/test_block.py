"""A block: both places of its norms written out, and its parameters in the order in which the parts are given."""

import pytest
import torch
from tiny_networks import drawn
from torch import nn

from bigtrain.nn.attention import Attention
from bigtrain.nn.block import Block
from bigtrain.nn.feedforward import FeedForward

SETTINGS = {"bias": True, "dropout": 0.0, "std": 0.5, "projection_std": 0.5}


def parts(*names):
    torch.manual_seed(0)
    made = {
        "attention": Attention(8, 2, **SETTINGS),
        "cross_attention": Attention(8, 2, cross=True, **SETTINGS),
        "feedforward": FeedForward(8, 16, "gelu", **SETTINGS),
    }
    return {name: made[name] if name in made else nn.LayerNorm(8) for name in names}


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_norm_stands_before_each_part_or_after_each_sum(pre_norm):
    names = [f"{part}{norm}" for part in ("attention", "cross_attention", "feedforward") for norm in ("", "_norm")]
    block = drawn(Block(pre_norm=pre_norm, **parts(*names)))
    x, source = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    memory = block.cross_attention.keys_values(source)
    sums = [
        (block.attention_norm, block.attention),
        (block.cross_attention_norm, lambda y: block.cross_attention(y, memory_2BGSK=memory)),
        (block.feedforward_norm, block.feedforward),
    ]
    expected = x
    for norm, part in sums:
        expected = expected + part(norm(expected)) if pre_norm else norm(expected + part(expected))
    assert torch.equal(block(x, source_BSD=source), expected)
    assert torch.equal(block(x, memory_2BGSK=memory), expected)


@pytest.mark.parametrize("norms_first", [True, False])
def test_parameters_are_in_the_order_of_the_parts(norms_first):
    pairs = (("attention_norm", "attention"), ("feedforward_norm", "feedforward"))
    names = [name for pair in pairs for name in (pair if norms_first else pair[::-1])]
    block = Block(pre_norm=True, **parts(*names))
    found = dict.fromkeys(name.split(".")[0] for name, _ in block.named_parameters())
    assert list(found) == names
