"""The base class of backbones: its defaults, what Muon takes, and plug-ins that inherit `nn.Module` only."""

import pytest
import torch
from tiny_networks import TEXT, drawn, tiny_config, tiny_network
from torch import nn

from bigtrain.models.config import BertConfig
from bigtrain.models.network import Network
from bigtrain.nn.backbone import Backbone
from bigtrain.nn.features import Features
from bigtrain.nn.heads import LanguageModelHead, MaskedLanguageModelHead
from bigtrain.registry import MODELS
from bigtrain.tasks.generation import Sampling, generate

EVERY_MODEL = pytest.mark.parametrize("entry", list(MODELS), ids=lambda entry: entry.name)


class Plain(nn.Module):
    """As a plug-in of 0.1 has it: a memory of one token, and a pooler that no head may read."""

    def __init__(self):
        super().__init__()
        self.hidden_size = 4
        self.token_embedding = nn.Embedding(11, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.pooler = nn.Linear(4, 4)

    def forward(self, inputs, state=None):
        """Tokens (B, T) → hidden (B, T, 4)."""
        return Features(self.blocks[0](self.token_embedding(inputs)), None, state)

    def initial_state(self, batch, max_length):
        """Nothing is remembered."""
        return ()


def test_a_plain_module_joins_with_the_defaults_and_a_warning():
    plain = Plain()
    with pytest.warns(UserWarning, match=r"Plain does not inherit bigtrain\.nn\.backbone\.Backbone"):
        network = Network(plain, {"language_model": drawn(LanguageModelHead(4, 11))})
    assert network.backbone is plain and isinstance(plain, Backbone) and isinstance(plain, Plain)
    assert (plain.max_length, plain.context_length, plain.carries_state) == (None, None, False)
    assert plain.ordered_blocks() == [plain.blocks[0]] and plain.hidden_matrices() == [
        plain.blocks[0].weight,
        plain.pooler.weight,
    ]
    assert [name for name, _ in network.named_parameters()][0] == "backbone.token_embedding.weight"
    assert generate(network, [[1, 2]], 3, Sampling(temperature=0)).shape == (1, 3)


def test_a_pooler_that_no_head_reads_is_left_out():
    with pytest.warns(UserWarning, match="Plain"):
        network = Network(Plain(), {"mlm": MaskedLanguageModelHead(4, 11, norm_epsilon=1e-5, std=0.1)})
    assert network.backbone.pooler is None
    assert not [name for name, _ in network.named_parameters() if "pooler" in name]


@EVERY_MODEL
def test_no_class_attribute_hides_a_submodule(entry):
    """Python would find it before nn.Module looks among its submodules."""
    backbone = tiny_network(tiny_config(entry.config_class))[1].backbone
    assert isinstance(backbone, Backbone)
    for module in backbone.modules():
        for name in module._modules:
            assert not hasattr(type(module), name), f"{type(module).__name__}.{name}"


@EVERY_MODEL
def test_muon_takes_every_matrix_of_a_backbone_that_is_no_embedding(entry):
    backbone = tiny_network(tiny_config(entry.config_class))[1].backbone
    embeddings = {id(module.weight) for module in backbone.modules() if isinstance(module, nn.Embedding)}
    matrices = [one for one in backbone.parameters() if one.ndim >= 2 and id(one) not in embeddings]
    assert list(map(id, backbone.hidden_matrices())) == list(map(id, matrices))


def test_without_a_state_there_is_a_sentence():
    backbone = MODELS["bert"].load()(tiny_config(BertConfig), TEXT)
    with pytest.raises(NotImplementedError, match="Bert has no state"):
        backbone.initial_state(1, 8)
    with pytest.raises(NotImplementedError, match="Bert has no encoder"):
        backbone.start(torch.zeros(1, 2), torch.ones(1), 1, 8)
