"""Initial weights: a block depends on seed, name and index only; each parameter has the distribution that is stated."""

import math

import pytest
import torch
from tiny_networks import IMAGES, PAIRS, SENTENCES, TEXT, drawn, serving, tiny_config
from torch import nn

from bigtrain.models.bert import Bert
from bigtrain.models.config import BertConfig, LSTMConfig, RecurrentInit, Seq2SeqConfig
from bigtrain.models.lstm import LSTM
from bigtrain.models.network import Network, tie_weights
from bigtrain.models.seq2seq import EncoderDecoder
from bigtrain.models.vision.config import VGGConfig
from bigtrain.models.vision.vgg import VGG
from bigtrain.nn.heads import LanguageModelHead, PooledHead
from bigtrain.nn.init import (
    BLOCK,
    Constant,
    Normal,
    Orthogonal,
    Uniform,
    declare,
    declared,
    draw_block,
    draw_weights,
    kaiming_convolutions,
    normal_embedding,
    normal_linear,
    uniform_convolution,
    uniform_linear,
)
from bigtrain.registry import MODELS, TASKS

PAIRED = [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}-{pair[2].kind}") for pair in serving()]
DISTRIBUTIONS = [Normal(0.3), Uniform(0.2), Constant(1.5), Orthogonal(24)]


def layer_of(distribution, rows=24):
    """A layer whose weight has this distribution."""
    layer = nn.Linear(24, rows, bias=False)
    declare(layer, weight=distribution)
    return layer


@pytest.mark.parametrize("distribution", [Normal(0.3), Uniform(0.2)])
def test_a_block_drawn_alone_is_that_slice_of_the_whole_for_any_number_of_threads(distribution):
    assert BLOCK == 1 << 20
    layers = nn.ModuleDict({"layer": nn.Linear(1000, 2300, bias=False)})  # 2.2 blocks
    declare(layers["layer"], weight=distribution)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            flat = drawn(layers, seed=5)["layer"].weight.detach().clone().flatten()
            for index, block in enumerate(flat.split(BLOCK)):
                alone = torch.empty_like(block)
                draw_block(alone, distribution, 5, "layer.weight", index)
                assert torch.equal(alone, block)
    finally:
        torch.set_num_threads(threads)
    first, second, _ = flat.split(BLOCK)
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 5 / math.sqrt(BLOCK)


def test_an_orthogonal_matrix_does_not_depend_on_the_number_of_threads():
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(drawn(LSTM(LSTMConfig(hidden_size=128), TEXT)).blocks[0].left_to_right.weight_hh_l0)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_other_parameters_seeds_and_memory_formats_change_nothing_but_names_do(distribution):
    alone, among = nn.ModuleDict({"b": layer_of(distribution)}), nn.ModuleDict()
    for name in "abc":
        among[name] = layer_of(distribution, 48)
    among["b"] = layer_of(distribution)
    weight = drawn(alone, seed=1)["b"].weight
    draw_weights(among, seed=1)
    assert torch.equal(among["b"].weight, weight)
    random = not isinstance(distribution, Constant)
    assert torch.equal(among["a"].weight, among["c"].weight) is not random
    again = weight.detach().clone()
    assert torch.equal(drawn(alone, seed=2)["b"].weight, again) is not random
    assert torch.equal(drawn(alone, seed=1)["b"].weight, again)


def test_weights_stored_channels_last_are_the_same():
    last = uniform_convolution(3, 8, 3).to(memory_format=torch.channels_last)
    assert torch.equal(drawn(last).weight, drawn(uniform_convolution(3, 8, 3)).weight)
    assert not last.weight.is_contiguous()


def test_a_tied_weight_is_drawn_once_as_the_embedding_is():
    config = tiny_config(BertConfig, tie_embeddings=True, init_std=0.5)
    network = Network(Bert(config, TEXT), {"language_model": LanguageModelHead(24, 11, std=7.0)})
    tie_weights(network, config)
    draw_weights(network, seed=3)
    alone = torch.empty(network.backbone.token_embedding.weight.numel())
    draw_block(alone, Normal(0.5), 3, "backbone.token_embedding.weight", 0)
    assert torch.equal(network.heads["language_model"].weight.flatten(), alone)


def test_the_numbers_are_these():
    """A change of generator, hash or block would change every run."""
    weight = drawn(normal_embedding(4, 8, std=1.0)).weight
    expected = [0.517962, 0.177302, 0.678835, 1.26503]
    assert weight[0, :4].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.fixture
def unwritten_memory_is_nan():
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.set_deterministic_debug_mode("default")


@pytest.mark.parametrize(("model", "task", "spec"), PAIRED)
def test_every_parameter_and_buffer_is_written_and_constructors_draw_nothing(
    model, task, spec, unwritten_memory_is_nan
):
    before, config = torch.get_rng_state(), tiny_config(model.config_class)
    backbone = MODELS.entry_of(config).load()(config, spec)
    head_task = TASKS.entry_of(task.config_class()).load()(task.config_class(), spec)
    network = Network(backbone, head_task.build_heads(backbone.hidden_size, config))
    assert torch.equal(torch.get_rng_state(), before)
    undrawn = [name for name, parameter in network.named_parameters() if parameter.isnan().any()]
    assert bool(undrawn) is not model.config_class.counts
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    draw_weights(network, seed=0)
    assert not [name for name, parameter in network.named_parameters() if parameter.isnan().any()]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())
    modules = dict(network.named_modules())
    stated = {
        name: declared(modules[name.rpartition(".")[0]]).get(name.rpartition(".")[2])
        for name, _ in network.named_parameters()
    }
    assert set(undrawn) <= {name for name, distribution in stated.items() if distribution is not None}
    for name, parameter in network.named_parameters():
        if isinstance(stated[name], Normal | Uniform) and parameter.numel() >= 100:
            check(parameter.detach(), stated[name], name)


def check(values, distribution, name):
    """Mean and standard deviation within 5 standard errors of what is stated; uniform numbers within their bound."""
    uniform = isinstance(distribution, Uniform)
    std = distribution.bound / math.sqrt(3) if uniform else distribution.std
    error = std / math.sqrt(values.numel())
    assert abs(values.mean()) < 5 * error, name
    assert abs(values.std() - std) < 5 * error / math.sqrt(2), name
    assert not uniform or values.abs().max() <= distribution.bound, name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: uniform_linear(50, 2000), lambda: nn.Linear(50, 2000)),
        (lambda: uniform_linear(50, 2000, bias=False), lambda: nn.Linear(50, 2000, bias=False)),
        (lambda: PooledHead(50, 2000), lambda: nn.Sequential(nn.Linear(50, 2000))),
        (lambda: uniform_convolution(7, 600, 3), lambda: nn.Conv2d(7, 600, 3)),
        (
            lambda: LSTM(LSTMConfig(hidden_size=96, recurrent_init=RecurrentInit.torch), TEXT).blocks[0].left_to_right,
            lambda: nn.LSTM(96, 96, batch_first=True),
        ),
    ],
    ids=["linear", "without bias", "pooled head", "convolution", "LSTM"],
)
def test_pytorchs_own_distributions_are_pytorchs_own(ours, theirs):
    torch.manual_seed(0)
    pairs = list(zip(drawn(ours()).parameters(), theirs().parameters(), strict=True))
    assert pairs
    for mine, reference in pairs:
        assert mine.shape == reference.shape
        assert mine.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.03)
        assert mine.std().item() == pytest.approx(reference.std().item(), rel=0.1)


def test_kaiming_convolutions_are_pytorchs():
    torch.manual_seed(0)
    ours, theirs = uniform_convolution(16, 200, 3), nn.Conv2d(16, 200, 3)
    kaiming_convolutions(ours)
    nn.init.kaiming_normal_(theirs.weight, mode="fan_out", nonlinearity="relu")
    assert drawn(ours).weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.03)
    assert not ours.bias.any()


def test_models_state_the_distributions_of_their_papers():
    seq2seq = EncoderDecoder(tiny_config(Seq2SeqConfig), PAIRS)
    assert declared(seq2seq.token_embedding)["weight"] == Normal(24**-0.5)
    for name, std in (("attention.qkv", 2 / 96), ("attention.projection", 2 / 48), ("feedforward.expansion", 2 / 120)):
        assert declared(seq2seq.blocks[0].get_submodule(name)) == {
            "weight": Normal(math.sqrt(std)),
            "bias": Constant(0.0),
        }
    bert = Bert(tiny_config(BertConfig, init_std=0.03), SENTENCES)
    for name in ("token_embedding", "positions.embedding", "segment_embedding", "pooler", "blocks.1.attention.qkv"):
        assert declared(bert.get_submodule(name))["weight"] == Normal(0.03)
    vgg = VGG(VGGConfig(width=4, hidden_size=16), IMAGES)
    assert declared(vgg.hidden[0])["weight"] == Normal(math.sqrt(2 / vgg.hidden[0].in_features))
    assert declared(vgg.blocks[0][0]) == {"weight": Normal(math.sqrt(2 / (9 * 4))), "bias": Constant(0.0)}
    lstm = LSTM(LSTMConfig(hidden_size=24), TEXT).blocks[0].left_to_right
    assert declared(lstm) == {"weight_ih_l0": Uniform(24**-0.5), "weight_hh_l0": Orthogonal(24)}
    assert declared(normal_linear(3, 4, bias=True, std=0.0)) == {"weight": Constant(0.0), "bias": Constant(0.0)}


def test_what_is_not_declared_is_left_alone():
    """As of a plug-in, whose constructor draws itself."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.LSTM(4, 4))
    before = {name: parameter.clone() for name, parameter in plain.named_parameters()}
    draw_weights(plain, seed=0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in plain.named_parameters())
