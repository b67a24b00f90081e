"""Heads: the argmax is the same in chunks of any size; masked positions are those asked for."""

import torch
from tiny_networks import drawn

from bigtrain.nn import heads
from bigtrain.nn.cross_entropy import Chunking
from bigtrain.nn.features import Features
from bigtrain.nn.heads import MaskedLanguageModelHead, VocabularyProjection


def test_argmax_in_chunks_is_that_of_all_logits(monkeypatch):
    torch.manual_seed(0)
    projection = VocabularyProjection(torch.randn(3, 5, 4), torch.randn(11, 4), bias_V=torch.randn(11))
    expected = projection.logits().argmax(dim=-1)
    monkeypatch.setattr(heads, "DEFAULT_CHUNKING", Chunking(max_logits=25))
    assert torch.equal(projection.argmax(), expected)


def test_masked_positions_are_looked_up_in_their_rows():
    torch.manual_seed(0)
    head = drawn(MaskedLanguageModelHead(4, 7, norm_epsilon=1e-12, std=0.5))
    hidden = torch.randn(3, 6, 4)
    positions = torch.tensor([[5, 0], [1, 1], [2, 4]])
    logits = head(Features(hidden=hidden, pooled=None)).at(positions).logits()
    everywhere = head.project(hidden).logits()
    for row, places in enumerate(positions.tolist()):
        torch.testing.assert_close(logits[row], everywhere[row, places])
