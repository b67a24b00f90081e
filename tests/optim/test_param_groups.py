"""Which parameters are trained, decayed, and given to Muon, chosen by pattern and by module."""

import pytest
import torch
from tiny_networks import learning, samples, spec_for, tiny_config, tiny_network

from bigtrain.config.schema import field_types, register_parts
from bigtrain.errors import ConfigError
from bigtrain.models.config import TransformerConfig
from bigtrain.registry import OPTIMIZERS
from tests.optim.small_modules import Small, build, everything, run

register_parts()
EVERY = pytest.mark.parametrize("name", OPTIMIZERS.names())


def groups_of(optimizer, module):
    """Group name → names of its parameters."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {group["name"]: [names[parameter] for parameter in group["params"]] for group in optimizer.param_groups}


def refusal(name, module, **settings):
    """The message that these settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        build(name, module, **settings)
    return str(caught.value)


def test_vectors_are_in_a_group_without_decay():
    module = Small()
    optimizer = build("adamw", module)
    groups = groups_of(optimizer, module)
    assert set(groups) == {"decay", "no_decay"}
    assert all(module.get_parameter(name).ndim < 2 for name in groups["no_decay"])
    assert sorted(groups["decay"] + groups["no_decay"]) == sorted(name for name, _ in module.named_parameters())
    assert [group["rule"].weight_decay for group in optimizer.param_groups] == [0.1, 0.0]


def test_no_decay_adds_what_its_patterns_match():
    module = Small()
    groups = groups_of(build("adamw", module, no_decay=["*token_embedding*", "heads.*"]), module)
    assert "backbone.token_embedding.weight" in groups["no_decay"]
    assert "heads.regression.weight" in groups["no_decay"]
    assert "backbone.wide.weight" in groups["decay"]


@EVERY
def test_frozen_parameters_keep_their_bytes_and_have_no_state(name):
    module, other = Small(), Small()
    optimizer = build(name, module, freeze=["backbone.wide.*", "backbone.token_embedding*"])
    frozen = {"backbone.wide.weight", "backbone.wide.bias", "backbone.token_embedding.weight"}
    run(optimizer, module, range(3))
    for (key, parameter), start in zip(module.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, start) == (key in frozen), key
        assert parameter.requires_grad == (key not in frozen)
        assert (parameter in optimizer.state) == (key not in frozen)
    assert set(everything(optimizer, module)) >= frozen


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("backbone", {"token_embedding", "convolution", "wide", "norm", "square", "square_too"}),
        ("backbone.square", {"square"}),
        ("*.norm", {"norm"}),
        ("*square*", {"square", "square_too"}),
    ],
)
def test_a_pattern_that_matches_a_module_means_all_in_it(pattern, frozen):
    module = Small()
    build("adamw", module, freeze=[pattern])
    names = {name.split(".")[1] for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert names == frozen


@pytest.mark.parametrize("entry", learning(), ids=lambda entry: entry.name)
def test_nothing_goes_backward_through_a_frozen_backbone(entry):
    untied = (
        {"tie_embeddings": False} if "tie_embeddings" in field_types(entry.config_class) else {}
    )  # a head of its own
    config = tiny_config(entry.config_class, **untied)
    task, network = tiny_network(config)
    build("adamw", network, freeze=["backbone"])
    features = []
    network.backbone.register_forward_hook(lambda *passed: features.append(passed[-1]))
    batch = task.collate(samples(spec_for(config), 4), training=True)
    losses = task.compute_loss(network, batch)
    sum(term.sum for term in losses.terms.values()).backward()
    assert not any(tensor is not None and tensor.requires_grad for tensor in features[0][:2])
    assert all(
        (parameter.grad is None) == name.startswith("backbone.") for name, parameter in network.named_parameters()
    )


def test_the_name_of_a_tied_weight_may_be_any_of_its_names():
    _, network = tiny_network(tiny_config(TransformerConfig, tie_embeddings=True))
    build("adamw", network, freeze=["heads.*"])
    assert not network.backbone.token_embedding.weight.requires_grad


@EVERY
@pytest.mark.parametrize("setting", ["freeze", "no_decay"])
def test_a_pattern_that_matches_nothing_is_refused_with_what_is_near(name, setting):
    message = refusal(name, Small(), weight_decay=0.1, **{setting: ["heads.*", "backbone.token_embeding.weight"]})
    assert f'error[OPTIM-PATTERN]: optimizer.{setting} has "backbone.token_embeding.weight"' in message
    assert "backbone.token_embedding.weight" in message


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("wide.weight", 'did you mean "*.wide.weight"'),
        ("wide", 'did you mean "*.wide"'),
        ("zzz", "backbone.token_embedding.weight"),
    ],
)
def test_the_advice_for_a_pattern_that_matches_nothing(pattern, advice):
    assert advice in refusal("adamw", Small(), freeze=[pattern])


def test_freezing_everything_is_refused():
    assert "nothing is left to train" in refusal("adamw", Small(), freeze=["backbone.*", "heads.*"])


@pytest.mark.parametrize("settings", [{"no_decay": ["*.bias"]}, {"no_decay": ["heads.*"], "freeze": ["heads.*"]}])
def test_a_no_decay_pattern_without_effect_is_refused(settings):
    assert "no effect" in refusal("adamw", Small(), **settings)


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    module = Small()
    optimizer = build("muon", module, learning_rate=0.02, adamw_learning_rate=0.001)
    groups = groups_of(optimizer, module)
    assert groups["muon_decay"] == [
        f"backbone.{name}.weight" for name in ("convolution", "wide", "square", "square_too")
    ]
    assert groups["adamw_decay"] == ["backbone.token_embedding.weight", "heads.regression.weight"]
    assert all(module.get_parameter(name).ndim == 1 for name in groups["adamw_no_decay"])
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"muon_decay": 0.02, "adamw_decay": 0.001, "adamw_no_decay": 0.001}
    same = build("muon", module, learning_rate=0.02)
    assert {group["lr"] for group in same.param_groups} == {0.02}


@pytest.mark.parametrize("positional", ["learned", "rope"])
@pytest.mark.parametrize("tied", [True, False])
def test_of_a_transformer_muon_takes_what_lies_in_blocks(positional, tied):
    config = tiny_config(TransformerConfig, tie_embeddings=tied)
    config.positional = type(config.positional)[positional]
    _, network = tiny_network(config)
    groups = groups_of(build("muon", network), network)
    blocks = [name for name, p in network.named_parameters() if ".blocks." in name and p.ndim >= 2]
    assert groups["muon_decay"] == blocks
    others = [name for name, p in network.named_parameters() if ".blocks." not in name and p.ndim >= 2]
    assert groups["adamw_decay"] == others


def test_muon_without_a_matrix_is_refused():
    assert "error[OPTIM-MUON]" in refusal("muon", Small(), freeze=["backbone.*"])
