"""Counts of parameters as scaling laws have them."""

from __future__ import annotations

import pytest
from torch import nn

from bigtrain.nn.heads import LanguageModelHead
from bigtrain.nn.size import count_parameters


@pytest.mark.parametrize("tied", [False, True])
def test_tables_and_the_output_layer_are_embeddings(tied):
    """7 tokens, 5 positions, width 3; one linear map of 3 x 3 + 3 is all the rest."""
    network = nn.ModuleDict(
        {
            "tokens": nn.Embedding(7, 3),
            "positions": nn.Embedding(5, 3),
            "block": nn.Linear(3, 3),
            "head": LanguageModelHead(3, 7),
        }
    )
    if tied:
        network["head"].weight = network["tokens"].weight
    assert count_parameters(network) == {"all": 21 + 15 + 12 + 21 * (not tied), "non_embedding": 12}


def test_a_network_without_tables():
    assert count_parameters(nn.Linear(4, 2)) == {"all": 10, "non_embedding": 10}
