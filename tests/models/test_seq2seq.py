"""The encoder-decoder is PyTorch's own, weight for weight; decoding with a cache gives what all at once gives."""

import dataclasses

import pytest
import torch
from tiny_networks import PAIRS, drawn, perturb, tiny_config
from torch import nn

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.config import NormPosition, Positional, Seq2SeqConfig
from bigtrain.models.seq2seq import EncoderDecoder

EVERY_NORM = pytest.mark.parametrize("norm", list(NormPosition))
SOURCE_LENGTHS, TARGET_LENGTHS = torch.tensor([9, 4, 1]), torch.tensor([3, 8, 5])


def backbone(**changes):
    torch.manual_seed(0)
    model = drawn(EncoderDecoder(tiny_config(Seq2SeqConfig, **changes), PAIRS))
    return perturb(model.double()).eval()


def inputs():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(PAIRS.vocab_size, shape, generator=generator) for shape in ((3, 9), (3, 8)))
    for tokens, lengths in ((source, SOURCE_LENGTHS), (target, TARGET_LENGTHS)):
        tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return source, target


def forward(model, source, target):
    return model(target, source=source, source_lengths=SOURCE_LENGTHS, lengths=TARGET_LENGTHS).hidden


def reference_of(model, norm_first):
    """`torch.nn.Transformer` with the same weights; where norms follow each sum it has no last one, as in the paper."""
    width, heads = model.hidden_size, 4
    size = model.encoder[0].feedforward.expansion.out_features
    settings = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first, "dtype": torch.float64}
    last = (lambda: nn.LayerNorm(width, dtype=torch.float64)) if norm_first else (lambda: None)
    encoder_layer = nn.TransformerEncoderLayer(width, heads, size, **settings)
    encoder = nn.TransformerEncoder(encoder_layer, len(model.encoder), last(), enable_nested_tensor=False)
    decoder_layer = nn.TransformerDecoderLayer(width, heads, size, **settings)
    decoder = nn.TransformerDecoder(decoder_layer, len(model.decoder), last())
    reference = nn.Transformer(width, heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
    for theirs, ours in zip([*encoder.layers, *decoder.layers], [*model.encoder, *model.decoder], strict=True):
        copy_attention(theirs.self_attn, ours.attention.qkv.weight, ours.attention.qkv.bias, ours.attention.projection)
        names = ["norm1", "norm2"]
        norms = [ours.attention_norm, ours.feedforward_norm]
        if ours.cross_attention is not None:
            cross, parts = ours.cross_attention, [ours.cross_attention.query, ours.cross_attention.key_value]
            weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
            copy_attention(theirs.multihead_attn, weight, bias, cross.projection)
            names, norms = [*names, "norm3"], [norms[0], ours.cross_attention_norm, norms[1]]
        for name, norm in zip(names, norms, strict=True):
            getattr(theirs, name).load_state_dict(norm.state_dict())
        theirs.linear1.load_state_dict(ours.feedforward.expansion.state_dict())
        theirs.linear2.load_state_dict(ours.feedforward.projection.state_dict())
    if norm_first:
        encoder.norm.load_state_dict(model.source_norm.state_dict())
        decoder.norm.load_state_dict(model.norm.state_dict())
    return reference


def copy_attention(theirs, weight, bias, projection):
    with torch.no_grad():
        theirs.in_proj_weight.copy_(weight)
        theirs.in_proj_bias.copy_(bias)
    theirs.out_proj.load_state_dict(projection.state_dict())


@EVERY_NORM
def test_it_is_torchs_transformer_with_the_same_weights(norm):
    model = backbone(norm_position=norm)
    source, target = inputs()
    embedded = [model.positions(model.token_embedding(tokens), 0) for tokens in (source, target)]
    padding = torch.arange(9) >= SOURCE_LENGTHS[:, None]
    reference = reference_of(model, norm_first=norm is NormPosition.pre)
    expected = reference(
        *embedded,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(8, dtype=torch.float64),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
        tgt_is_causal=True,
    )
    hidden = forward(model, source, target)
    for row, length in enumerate(TARGET_LENGTHS):
        torch.testing.assert_close(hidden[row, :length], expected[row, :length], rtol=0, atol=1e-10)


@pytest.mark.parametrize("positional", [Positional.sinusoidal, Positional.learned])
@pytest.mark.parametrize("tied", [True, False])
def test_neither_padding_nor_later_tokens_reach_what_is_asked(positional, tied):
    model = backbone(positional=positional, tie_embeddings=tied)
    source, target = inputs()
    hidden = forward(model, source, target)
    for row in range(3):  # alone, without any padding
        short = slice(row, row + 1), slice(None, TARGET_LENGTHS[row])
        alone = model(target[short], source=source[row : row + 1, : SOURCE_LENGTHS[row]]).hidden[0]
        torch.testing.assert_close(hidden[row, : TARGET_LENGTHS[row]], alone, rtol=0, atol=1e-12)
    other = target.clone()
    other[:, 2:] = 7
    torch.testing.assert_close(forward(model, source, other)[:, :2], hidden[:, :2], rtol=0, atol=1e-12)
    assert (forward(model, source.flip(0), target) - hidden).abs().max() > 1e-3


@EVERY_NORM
@pytest.mark.parametrize("rows", [1, 3])
def test_step_by_step_with_the_cache_equals_all_at_once(norm, rows):
    model = backbone(norm_position=norm)
    source, target = inputs()
    target = target.repeat_interleave(rows, dim=0)
    target[1::2] = target[1::2].flip(1)  # rows of one source differ
    expected = model(
        target, source=source.repeat_interleave(rows, 0), source_lengths=SOURCE_LENGTHS.repeat_interleave(rows)
    ).hidden
    state, steps = model.start(source, SOURCE_LENGTHS, rows, 8), []
    for piece in target.split((1, 1, 3, 1, 2), dim=1):
        features = model(piece, state)
        state = features.state
        steps.append(features.hidden)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="room for 8"):
        model(target[:, :1], state)


def test_a_state_follows_its_rows():
    """Rows exchanged, doubled and dropped among two targets for each source, and a source left out."""
    model = backbone()
    source, target = inputs()
    target = target.repeat_interleave(2, dim=0)
    target[1::2] = target[1::2].flip(1)
    begun = model(target[:, :3], model.start(source, SOURCE_LENGTHS, 2, 8)).state
    rows = torch.tensor([1, 0, 5, 5])
    newest = torch.tensor([[1], [2], [3], [4]])
    hidden = model(newest, begun.select(rows)).hidden
    sources = rows // 2
    expected = model(
        torch.cat((target[rows, :3], newest), dim=1), source=source[sources], source_lengths=SOURCE_LENGTHS[sources]
    ).hidden[:, -1:]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-12)
    reordered = model(target[:, 3:4], begun.select(torch.arange(6))).hidden
    torch.testing.assert_close(reordered, model(target[:, 3:4], begun).hidden, rtol=0, atol=0)


def test_the_papers_base_model_has_the_papers_parameters():
    """65 million, in table 3; D 512, 6 + 6 blocks, feed-forward 2048, a shared vocabulary of 37,000."""
    spec = dataclasses.replace(PAIRS, vocab_size=37_000)
    paper = Seq2SeqConfig(hidden_size=512, num_layers=6, num_heads=8, norm_position=NormPosition.post)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in EncoderDecoder(paper, spec).parameters())
    attention, feedforward, norm = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 512 + 2048, 2 * 512
    encoder, decoder = attention + feedforward + 2 * norm, 2 * attention + feedforward + 3 * norm
    assert count == 37_000 * 512 + 6 * encoder + 6 * decoder
    assert count == pytest.approx(65e6, rel=0.04)


def test_what_does_not_fit_is_refused():
    assert "num_heads is 3" in str(find_problems(Seq2SeqConfig(hidden_size=16, num_heads=3)))
    assert "sinusoidal, learned" in str(find_problems(Seq2SeqConfig(positional=Positional.rope)))
    assert "even" in str(find_problems(Seq2SeqConfig(hidden_size=9, num_heads=3)))
    with pytest.raises(ConfigError, match="model.max_length=5"):
        EncoderDecoder(Seq2SeqConfig(max_length=5), PAIRS)
    with pytest.raises(ValueError, match="16 positions"):
        backbone().start(*inputs()[:1], SOURCE_LENGTHS, 1, 17)
