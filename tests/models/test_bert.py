"""BERT's own: both places of the norm, its limits, a mask that the vocabulary lacks. tests/parity has its numbers."""

from dataclasses import replace

import pytest
import torch
from tiny_networks import IMAGES, TEXT, drawn, perturb, samples, tiny_config, tiny_network

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.bert import Bert
from bigtrain.models.config import BertConfig, NormPosition


def test_pre_norm_leaves_the_residual_stream_alone_and_ends_with_a_norm():
    config = tiny_config(BertConfig, norm_position=NormPosition.pre)
    backbone = perturb(drawn(Bert(config, TEXT))).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    block = backbone.blocks[0]
    after = x + block.attention(block.attention_norm(x))
    expected = after + block.feedforward(block.feedforward_norm(after))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert backbone.norm is not None and Bert(tiny_config(BertConfig), TEXT).norm is None


@pytest.mark.parametrize("norm_position", NormPosition)
def test_every_token_sees_all_others(norm_position):
    config = tiny_config(BertConfig, norm_position=norm_position)
    backbone = perturb(drawn(Bert(config, TEXT)))
    tokens = torch.arange(8)[None] % 11
    changed = tokens.clone()
    changed[0, 7] = 9
    difference = (backbone(changed).hidden - backbone(tokens).hidden).abs().amax(dim=-1)
    assert (difference > 1e-4).all()


@pytest.mark.parametrize(("special", "rows"), [({"end_of_text": 10}, 12), ({"mask": 4}, 11)])
def test_there_is_an_embedding_for_the_mask(special, rows):
    spec = replace(TEXT, special_tokens=special)
    task, network = tiny_network(tiny_config(BertConfig), spec=spec)
    assert network.backbone.token_embedding.weight.shape == (rows, 24)
    batch = task.collate(samples(spec, 50), training=True)
    assert spec.mask_id in batch["inputs"] and batch["inputs"].max() < rows
    assert network.heads["masked_language_model"].weight is network.backbone.token_embedding.weight


def test_stochastic_depth_acts_in_training_only_and_deeper_blocks_are_skipped_more():
    config = tiny_config(BertConfig, stochastic_depth=0.5)
    backbone = perturb(drawn(Bert(config, TEXT)))
    assert [block.stochastic_depth.probability for block in backbone.blocks] == [0.25, 0.5]
    tokens = torch.arange(64).view(8, 8) % 11
    assert not torch.equal(backbone(tokens).hidden, backbone(tokens).hidden)
    backbone.eval()
    assert torch.equal(backbone(tokens).hidden, backbone(tokens).hidden)


def test_what_does_not_fit_is_refused():
    assert (
        "num_heads is 5, which does not divide hidden_size=24"
        in find_problems(tiny_config(BertConfig, num_heads=5))[0].message
    )
    with pytest.raises(ConfigError, match="model=bert reads tokens, but this data gives images"):
        Bert(tiny_config(BertConfig), IMAGES)
    with pytest.raises(ConfigError, match="data.sequence_length is 12, over model.max_length=11"):
        Bert(tiny_config(BertConfig, max_length=11), TEXT)
    with pytest.raises(ValueError, match="17 tokens, but there is room for 16"):
        Bert(tiny_config(BertConfig), TEXT)(torch.zeros(1, 17, dtype=torch.int64))
