"""Rates by pattern and by layer, and the L1 penalty: for every rule, by hand, and refused where they mean nothing."""

import pytest
import torch
from tiny_networks import tiny_config, tiny_network

from bigtrain.config.schema import register_parts
from bigtrain.errors import ConfigError
from bigtrain.models.config import TransformerConfig
from bigtrain.models.vision.config import MLPConfig
from bigtrain.registry import MODELS, OPTIMIZERS
from tests.config.composing import composed, refusal, write
from tests.optim.small_modules import ONE, ZERO, Small, build, everything, run, same_bytes, set_gradients

register_parts()
EVERY = pytest.mark.parametrize("name", OPTIMIZERS.names())


def rates_of(optimizer, module):
    """Parameter name → its rate."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


@EVERY
def test_a_scaled_weight_moves_as_under_that_rate_and_the_others_as_ever(name):
    scales = {"heads": 10.0, "backbone.square": 0.5, "*.square.bias": 0.5}
    modules = [Small() for _ in range(4)]
    settings = {"learning_rate": 0.01, "weight_decay": 0.1}
    run(build(name, modules[0], **settings, learning_rate_scale=scales), modules[0], range(3))
    expected = {}
    for module, rate in zip(modules[1:], (0.01, 0.1, 0.005), strict=True):
        run(build(name, module, **settings | {"learning_rate": rate}), module, range(3))
        expected[rate] = dict(module.named_parameters())
    for key, parameter in modules[0].named_parameters():
        if key == "backbone.square.bias":
            continue  # its rate is the product, 0.0025
        rate = 0.1 if key.startswith("heads") else 0.005 if key.startswith("backbone.square.") else 0.01
        torch.testing.assert_close(parameter, expected[rate][key], rtol=0, atol=1e-6)


@EVERY
def test_each_rate_is_one_group_and_the_plain_one_comes_first(name):
    module = Small()
    optimizer = build(name, module, learning_rate=0.01, learning_rate_scale={"heads": 10, "backbone.square": 0.5})
    rates = rates_of(optimizer, module)
    assert [rates[f"heads.regression.{kind}"] for kind in ("weight", "bias")] == pytest.approx([0.1, 0.1])
    assert [rates[f"backbone.square.{kind}"] for kind in ("weight", "bias")] == [0.005, 0.005]
    assert rates["backbone.square_too.weight"] == 0.01 == optimizer.param_groups[0]["lr"]
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names) == (7 if name == "muon" else 6)
    plain = build(name, module, learning_rate=0.01, learning_rate_scale={"*": 2})
    unscaled = build(name, module, learning_rate=0.02)
    assert rates_of(plain, module) == rates_of(unscaled, module)


@pytest.mark.parametrize("entry", list(MODELS), ids=lambda entry: entry.name)
def test_rates_fall_from_the_heads_to_the_embeddings_of_every_model(entry):
    _, network = tiny_network(tiny_config(entry.config_class))
    rates = rates_of(build("adamw", network, learning_rate=1.0, layer_decay=0.5), network)
    blocks = list(network.backbone.blocks)
    for depth, block in enumerate(blocks, start=1):
        of_block = {id(parameter) for parameter in block.parameters()}
        seen = {rates[name] for name, parameter in network.named_parameters() if id(parameter) in of_block}
        assert seen == {0.5 ** (len(blocks) + 1 - depth)}
    assert {rate for name, rate in rates.items() if name.startswith("heads.")} <= {1.0}
    assert set(rates.values()) <= {0.5**depth for depth in range(len(blocks) + 2)}


def test_rates_of_a_transformer_by_hand():
    config = tiny_config(TransformerConfig)
    config.positional = type(config.positional).learned
    _, network = tiny_network(config)
    scaled = {"learning_rate_scale": {"backbone.blocks.1.attention": 2}}
    rates = rates_of(build("adamw", network, learning_rate=1.0, layer_decay=0.9, **scaled), network)
    expected = {
        "token_embedding.weight": 0.9**3,
        "positions.": 0.9**3,
        "blocks.0.": 0.9**2,
        "blocks.1.attention.": 2 * 0.9,
        "blocks.1.attention_norm": 0.9,
        "blocks.1.feedforward": 0.9,
        "norm.": 1.0,
    }
    for name, rate in rates.items():
        wanted = [value for start, value in expected.items() if name.startswith(f"backbone.{start}")] or [1.0]
        assert [rate] == pytest.approx(wanted), name


def test_a_tied_embedding_is_an_embedding():
    _, network = tiny_network(tiny_config(TransformerConfig, tie_embeddings=True))
    rates = rates_of(build("adamw", network, learning_rate=1.0, layer_decay=0.5), network)
    assert rates["backbone.token_embedding.weight"] == 0.125


@EVERY
def test_an_l1_penalty_by_hand(name):
    """The rule's own step, then every matrix towards zero by rate times l1, but not beyond; vectors never."""
    module, plain = Small(), Small()
    settings = {"learning_rate": 0.01, "weight_decay": 0.1, "learning_rate_scale": {"heads": 3.0}}
    optimizer = build(name, module, l1=5.0, no_decay=["*embedding*"], **settings)
    run(optimizer, module, range(1))
    run(build(name, plain, no_decay=["*embedding*"], **settings), plain, range(1))
    for (key, parameter), after in zip(module.named_parameters(), plain.parameters(), strict=True):
        shrinks = parameter.ndim >= 2 and "embedding" not in key
        threshold = 0.01 * 5.0 * (3.0 if key.startswith("heads") else 1.0) if shrinks else 0.0
        expected = after.sign() * (after.abs() - threshold).clamp(min=0)
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-7)
        assert not shrinks or (parameter == 0).any()
    before = everything(optimizer, module)
    set_gradients(module, 1)
    optimizer.step(ONE, ONE)
    assert same_bytes(before, everything(optimizer, module))


def test_an_l1_penalty_finds_the_few_features_that_matter():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 20, generator=generator)
    y = x[:, :3] @ torch.tensor([1.0, -2.0, 3.0]) + 0.1 * torch.randn(512, generator=generator)
    weights = {}
    for l1 in (0.0, 0.2):
        layer = torch.nn.Linear(20, 1, bias=False)
        plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        optimizer = build("sgd", layer, learning_rate=0.5, l1=l1, **plain)
        for _ in range(200):
            (0.5 * (layer(x)[:, 0] - y).square().mean()).backward()
            optimizer.step(ZERO, ONE)
            optimizer.zero_grad()
        weights[l1] = layer.weight.detach()[0]
    assert (weights[0.0] != 0).all()
    assert (weights[0.2] != 0).tolist() == [True] * 3 + [False] * 17
    slope = x.T @ (x @ weights[0.2] - y) / len(x)  # at the lasso's optimum, l1 balances it
    torch.testing.assert_close(slope[:3], -0.2 * weights[0.2][:3].sign(), rtol=0, atol=1e-4)
    assert (slope[3:].abs() < 0.2).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate_scale": {"hed": 2.0}}, 'learning_rate_scale has "hed", which matches no parameter'),
        ({"learning_rate_scale": {"heads": 2.0}, "freeze": ["heads"]}, "all that it matches is frozen"),
        ({"no_decay": ["*.bias"]}, "frozen, or a vector, which is never decayed"),
    ],
)
def test_what_has_no_effect_is_refused(settings, said):
    with pytest.raises(ConfigError, match=r"OPTIM-PATTERN") as caught:
        build("adamw", Small(), **settings)
    assert said in str(caught.value)


def test_in_words_and_in_files(tmp_path):
    def scales(*words, **options):
        return composed(*words, **options).config.optimizer.learning_rate_scale

    assert scales() == {}
    assert scales("optimizer.learning_rate_scale={heads.*: 10, *.norm: 0.5}") == {"heads.*": 10.0, "*.norm": 0.5}
    assert scales("optimizer.learning_rate_scale.heads=10") == {"heads": 10.0}
    text = "# @package _global_\noptimizer:\n  learning_rate_scale: {backbone: 0.1, 'heads.*': 2}\n"
    write(tmp_path, "experiment/probe", text)
    assert scales("experiment=probe", folder=tmp_path) == {"backbone": 0.1, "heads.*": 2.0}
    replaced = scales("experiment=probe", "optimizer.learning_rate_scale={heads: 3}", folder=tmp_path)
    assert replaced == {"heads": 3.0}  # as a list would be


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("learning_rate_scale={heads: fast}", "it must be numbers by name in braces, such as {a: 1, b: 2}"),
        ("learning_rate_scale=3", "it must be numbers by name in braces"),
        ("learning_rate_scale={heads: {scale: 2}}", "it must be numbers by name in braces"),
        ("learning_rate_scale={heads: 0}", "learning_rate_scale has heads: 0; it must be above 0"),
        ("learning_rate_scale={heads: inf}", "it must be above 0 and finite"),
        ("learning_rate_scales={heads: 2}", "did you mean optimizer.learning_rate_scale={heads: 2}"),
        ("lr_mult={heads: 2}", "did you mean optimizer.learning_rate_scale={heads: 2} ?"),
        ("layer_decay=0", "optimizer.layer_decay is 0.0; it must be above 0 and at most 1"),
        ("layer_decay=1.1", "optimizer.layer_decay is 1.1"),
        ("l1=-1", "optimizer.l1 is -1.0; it must be at least 0"),
        ("freeze=backbone", "it must be a list of texts in brackets, such as [a,b]"),
    ],
)
def test_what_can_not_be_meant_is_refused_in_words(word, said):
    assert said in refusal(f"optimizer.{word}")


def test_an_mlp_has_layers_too():
    _, network = tiny_network(tiny_config(MLPConfig, widths=[4, 4, 4]))
    rates = rates_of(build("sgd", network, learning_rate=1.0, layer_decay=0.5), network)
    assert [rates[f"backbone.blocks.{index}.linear.weight"] for index in range(3)] == [0.125, 0.25, 0.5]
