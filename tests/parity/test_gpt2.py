"""`model=gpt2` is GPT-2: logits and gradients equal a plain reference written here, and so does the size."""

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import configs
from bigtrain.data.base import DataSpec
from bigtrain.models.config import Activation, Norm, Positional, ProjectionInit, TransformerConfig
from bigtrain.models.network import Network, tie_weights
from bigtrain.models.transformer import Transformer
from bigtrain.nn.init import draw_weights
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.language_modeling import LanguageModeling


def gpt2_config(**changes):
    """The shipped YAML's own values on top of the dataclass, as Hydra merges them."""
    path = f"{configs.__path__[0]}/model/gpt2.yaml"
    values = OmegaConf.load(path)["model"]
    merged = OmegaConf.merge(OmegaConf.structured(TransformerConfig), values, changes)
    return OmegaConf.to_object(merged)


def build(config, vocab_size):
    spec = DataSpec(kind="text", fingerprint="", sizes={}, vocab_size=vocab_size, sequence_length=config.max_length)
    task = LanguageModeling(LanguageModelingConfig(), spec)
    backbone = Transformer(config, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config))
    tie_weights(network, config)
    if torch.get_default_device().type != "meta":
        draw_weights(network, seed=0)
    return task, network


def reference_logits(weights, tokens, num_layers, num_heads):
    """GPT-2 (Radford et al. 2019) written out: no modules, no fused calls, explicit mask and softmax."""

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    batch, length = tokens.shape
    embedding = weights["token_embedding.weight"]
    x = embedding[tokens] + weights["positions.embedding.weight"][torch.arange(length)]
    width = x.shape[-1]
    hidden_future = torch.ones(length, length).triu(1).bool()
    for layer in range(num_layers):
        name = f"blocks.{layer}"
        qkv = linear(layer_norm(x, f"{name}.attention_norm"), f"{name}.attention.qkv")
        q, k, v = (
            part.reshape(batch, length, num_heads, width // num_heads).permute(0, 2, 1, 3)
            for part in qkv.chunk(3, dim=-1)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(width // num_heads)
        attention = scores.masked_fill(hidden_future, -torch.inf).softmax(dim=-1)
        mixed = (attention @ v).permute(0, 2, 1, 3).reshape(batch, length, width)
        x = x + linear(mixed, f"{name}.attention.projection")
        inner = gelu(linear(layer_norm(x, f"{name}.feedforward_norm"), f"{name}.feedforward.expansion"))
        x = x + linear(inner, f"{name}.feedforward.projection")
    return layer_norm(x, "norm") @ embedding.t()


def test_logits_and_gradients_equal_the_reference():
    torch.manual_seed(0)
    config = gpt2_config(hidden_size=32, num_layers=3, num_heads=4, max_length=16)
    task, network = build(config, vocab_size=23)
    network.double().eval()
    with torch.no_grad():  # away from the special values of the start: biases 0, gains 1
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    names, parameters = zip(*network.backbone.named_parameters(), strict=True)
    tokens, targets = torch.randint(23, (2, 3, 16))

    expected = reference_logits(dict(zip(names, parameters, strict=True)), tokens, 3, 4)
    expected_loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), reduction="sum")
    expected_gradients = torch.autograd.grad(expected_loss, parameters)

    logits = network(tokens).predictions["language_model"].logits()
    loss = task.compute_loss(network, {"inputs": tokens, "targets": targets}).terms["loss"].sum
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10)


def test_the_shipped_config_is_gpt2s():
    config = gpt2_config()
    assert (config.norm, config.positional, config.activation, config.projection_init) == (
        Norm.layernorm,
        Positional.learned,
        Activation.gelu_tanh,
        ProjectionInit.scaled,
    )
    assert config.bias and config.tie_embeddings and not config.qk_norm
    assert config.logit_softcap is None and config.num_kv_heads is None
    assert (config.norm_epsilon, config.init_std, config.dropout) == (1e-5, 0.02, 0.1)


def test_the_smallest_gpt2_has_its_published_size():
    with torch.device("meta"):
        _, network = build(gpt2_config(), vocab_size=50257)
    assert sum(parameter.numel() for parameter in network.parameters()) == 124_439_808


def test_weights_start_as_gpt2s():
    torch.manual_seed(0)
    config = gpt2_config(hidden_size=128, num_layers=4, num_heads=4, max_length=64)
    _, network = build(config, vocab_size=100)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(8) if "projection" in name else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.06), name
