"""How many parameters a network has, as scaling laws count them."""

from __future__ import annotations

from torch import nn

from bigtrain.nn.heads import VocabularyHead


def count_parameters(network: nn.Module) -> dict[str, int]:
    """`all` of them, as Hoffmann et al. count (arXiv:2203.15556), and `non_embedding`, as Kaplan et al. do
    (arXiv:2001.08361): without token and position tables and the output layer D → V. A shared weight counts once.
    """
    tables = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, (nn.Embedding, VocabularyHead)) and isinstance(module.weight, nn.Parameter)
    }
    sizes = {id(parameter): parameter.numel() for parameter in network.parameters()}
    total = sum(sizes.values())
    return {"all": total, "non_embedding": total - sum(sizes.get(table, 0) for table in tables)}
