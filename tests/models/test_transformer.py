"""The transformer: every combination of its parts works, is causal, and decodes from its cache exactly."""

import itertools
import math

import pytest
import torch
from tiny_networks import IMAGES, TEXT, drawn, perturb, samples, tiny_config, tiny_network

from bigtrain.errors import ConfigError
from bigtrain.models.config import Activation, Norm, Pooling, Positional, ProjectionInit, TransformerConfig
from bigtrain.models.transformer import Transformer
from bigtrain.nn.heads import LanguageModelHead

COMBINATIONS = [
    dict(zip(("norm", "positional", "activation", "num_kv_heads", "qk_norm"), choice, strict=True))
    for choice in itertools.product(Norm, Positional, Activation, (None, 2), (False, True))
]
# bias, tying, softcap and initialisation take turns, so that each meets most of the others
for index, combination in enumerate(COMBINATIONS):
    combination |= {
        "bias": index % 2 == 0,
        "tie_embeddings": index % 3 == 0,
        "logit_softcap": 5.0 if index % 5 == 0 else None,
        "projection_init": list(ProjectionInit)[index % 7 % 2],
    }


def label(combination):
    return "-".join(str(getattr(value, "value", value)) for value in combination.values())


@pytest.mark.parametrize("combination", COMBINATIONS, ids=label)
def test_any_combination_trains_is_causal_and_decodes_exactly(combination):
    task, network = tiny_network(tiny_config(TransformerConfig, **combination))
    perturb(network.double(), 0.2)
    batch = task.collate(samples(TEXT, 2), training=True)
    task.compute_loss(network, batch).terms["loss"].sum.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())

    tokens = batch["inputs"]
    with torch.no_grad():
        logits = network(tokens).predictions["language_model"].logits()
        later = tokens.clone()
        later[:, 7] = (later[:, 7] + 1) % 11
        changed = network(later).predictions["language_model"].logits()
        assert torch.equal(changed[:, :7], logits[:, :7])
        assert not torch.equal(changed[:, 7:], logits[:, 7:])

        state = network.backbone.initial_state(2, 12)
        for first, last in ((0, 5), (5, 6), (6, 7), (7, 10), (10, 12)):
            projection, state = network(tokens[:, first:last], state)
            cached = projection["language_model"].logits()
            torch.testing.assert_close(cached, logits[:, first:last], rtol=1e-10, atol=1e-10)
        assert state.length == 12


@pytest.mark.parametrize("positional", Positional)
def test_documents_apart_equal_runs_of_each_document(positional):
    """Loss sum and gradients, in float64; a row may begin inside a document and end inside one."""
    tokens = torch.tensor([[3, 4, 10, 5, 6, 7, 10, 10, 8, 1, 2, 9, 10], [10, 2, 3, 10, 1, 1, 1, 1, 5, 10, 4, 3, 2]])
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    task, network = tiny_network(tiny_config(TransformerConfig, positional=positional, num_kv_heads=2))
    perturb(network.double(), 0.2)

    def sum_and_gradients(batches):
        network.zero_grad()
        total = sum(task.compute_loss(network, batch).terms["loss"].sum for batch in batches)
        total.backward()
        return [total.detach(), *(parameter.grad.clone() for parameter in network.parameters())]

    documents = (batch["inputs"] == 10).cumsum(dim=1)
    alone = [
        {name: row[number][documents[number] == document][None] for name, row in batch.items()}
        for number in range(2)
        for document in documents[number].unique()
    ]
    expected = sum_and_gradients(alone)
    found = sum_and_gradients([batch | {"documents": documents}])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (sum_and_gradients([batch])[0] - expected[0]).abs() > 1e-3


def test_blocks_with_zero_projections_start_as_the_identity():
    _, network = tiny_network(tiny_config(TransformerConfig, projection_init=ProjectionInit.zero))
    x = torch.randn(2, 5, 24)
    for block in network.backbone.blocks:
        assert torch.equal(block(x, rotation_T21K=network.backbone.rotary(0, 5)), x)


def test_residual_projections_start_at_zero_or_scaled():
    for init, std in ((ProjectionInit.zero, 0.0), (ProjectionInit.scaled, 0.3 / math.sqrt(2 * 8))):
        config = TransformerConfig(hidden_size=64, num_layers=8, max_length=4, init_std=0.3, projection_init=init)
        block = drawn(Transformer(config, TEXT_4)).blocks[3]
        for projection in (block.attention.projection, block.feedforward.projection):
            assert projection.weight.std().item() == pytest.approx(std, rel=0.05)
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.3, rel=0.05)


TEXT_4 = type(TEXT)(kind="text", fingerprint="", sizes={}, vocab_size=11, sequence_length=4)


def test_initial_scale_follows_the_width_unless_told():
    for width in (64, 256):
        config = TransformerConfig(hidden_size=width, num_layers=1, max_length=4)
        for weight in (
            drawn(Transformer(config, TEXT_4)).blocks[0].feedforward.expansion.weight,
            drawn(LanguageModelHead(width, 100)).weight,
        ):
            assert weight.std().item() == pytest.approx(width**-0.5, rel=0.05)


def test_softcap_bounds_the_logits():
    _, network = tiny_network(tiny_config(TransformerConfig, logit_softcap=0.5))
    perturb(network, 5.0)
    logits = network(samples(TEXT, 2)["tokens"]).predictions["language_model"].logits()
    assert 0.4 < logits.abs().max() <= 0.5


def test_tied_head_is_the_embedding_itself():
    for tied in (True, False):
        _, network = tiny_network(tiny_config(TransformerConfig, tie_embeddings=tied))
        head, embedding = network.heads["language_model"], network.backbone.token_embedding
        assert (head.weight is embedding.weight) is tied


def test_pooled_is_the_last_position():
    _, network = tiny_network(tiny_config(TransformerConfig))
    features = network.backbone(samples(TEXT, 2)["tokens"])
    assert torch.equal(features.pooled, features.hidden[:, -1]) and features.state is None


@pytest.mark.parametrize("num_layers", [0, 2])
@pytest.mark.parametrize("pooling", Pooling)
def test_pooled_is_over_the_tokens_of_each_text_and_no_padding(pooling, num_layers):
    config = tiny_config(TransformerConfig, pooling=pooling, num_layers=num_layers)
    backbone = perturb(tiny_network(config)[1].double()).backbone
    raw = []
    backbone.norm.register_forward_pre_hook(lambda norm, inputs: raw.append(inputs[0]))
    tokens, lengths = samples(TEXT, 4)["tokens"][:, :9], torch.tensor([9, 5, 1, 7])
    pooled = backbone(tokens, lengths=lengths).pooled
    for row, length in enumerate(lengths):
        raw.clear()
        alone = backbone(tokens[row : row + 1, :length]).pooled
        torch.testing.assert_close(pooled[row : row + 1], alone, rtol=1e-12, atol=1e-12)
        of_tokens = {Pooling.last: raw[0][:, -1], Pooling.mean: raw[0].mean(1), Pooling.max: raw[0].max(1).values}
        torch.testing.assert_close(alone, backbone.norm(of_tokens[pooling]), rtol=1e-12, atol=1e-12)


def test_positions_that_do_not_exist_are_refused():
    _, network = tiny_network(tiny_config(TransformerConfig))
    tokens = torch.zeros(1, 17, dtype=torch.int64)
    with pytest.raises(ValueError, match="17 tokens.* 16"):
        network(tokens)
    with pytest.raises(ValueError, match="16 positions"):
        network.backbone.initial_state(1, 17)
    with torch.no_grad():
        state = network(tokens[:, :6], network.backbone.initial_state(1, 8)).state
        with pytest.raises(ValueError, match="9 tokens.* 8"):
            network(tokens[:, :3], state)


def test_data_that_does_not_fit_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="data.sequence_length is 12, over model.max_length=8"):
        Transformer(tiny_config(TransformerConfig, max_length=8), TEXT)
    with pytest.raises(ConfigError, match="reads tokens"):
        Transformer(tiny_config(TransformerConfig), IMAGES)


def test_cache_is_in_autocasts_dtype_and_decodes_close_to_uncached():
    _, network = tiny_network(tiny_config(TransformerConfig, num_kv_heads=2))
    perturb(network, 0.1)
    tokens = samples(TEXT, 2)["tokens"][:, :8]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = network.backbone.initial_state(2, 8)
        assert state.keys.dtype == torch.bfloat16
        for t in range(8):
            output = network(tokens[:, t : t + 1], state)
            state = output.state
        whole = network(tokens).predictions["language_model"].last_logits()
    torch.testing.assert_close(output.predictions["language_model"].last_logits(), whole, rtol=5e-2, atol=5e-2)
