"""Attention: it equals itself written out; grouped heads equal repeated ones; the cache is written in place."""

import pytest
import torch
from tiny_networks import drawn

from bigtrain.nn.attention import Attention
from bigtrain.nn.cache import LayerCache
from bigtrain.nn.feedforward import FeedForward, default_feedforward_size


def make(num_kv_heads, num_heads=4, width=16, **changes):
    torch.manual_seed(0)
    settings = {"bias": True, "qk_norm_epsilon": 1e-5, "dropout": 0.0, "std": 0.5, "projection_std": 0.5}
    return drawn(Attention(width, num_heads, num_kv_heads, causal=True, **(settings | changes)).double())


def test_grouped_heads_equal_full_heads_with_repeated_weights():
    grouped, full = make(num_kv_heads=2), make(num_kv_heads=4)
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(grouped.qkv, name).unflatten(0, (4 + 2 * 2, 4))
            q, k, v = rows.split((4, 2, 2))
            repeated = torch.cat((q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)))
            getattr(full.qkv, name).copy_(repeated.flatten(0, 1))
        full.projection.load_state_dict(grouped.projection.state_dict())
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), full(x), rtol=1e-10, atol=1e-12)


def test_equals_attention_written_out():
    layer = make(num_kv_heads=4, qk_norm_epsilon=None)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = (part.view(2, 5, 4, 4).transpose(1, 2) for part in layer.qkv(x).split(16, dim=-1))
    scores = (q @ k.transpose(-2, -1) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    expected = layer.projection((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cuts", [(6,), (1, 1, 1, 1, 1, 1), (3, 3), (4, 1, 1), (1, 5)])
def test_cached_in_pieces_of_any_length_equals_uncached(cuts):
    layer = make(num_kv_heads=2)
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    keys, values = torch.zeros(2, 2, 2, 8, 4, dtype=torch.float64)
    pieces, start = [], 0
    with torch.no_grad():
        for length in cuts:
            pieces.append(layer(x[:, start : start + length], cache=LayerCache(keys, values, start)))
            start += length
    assert keys[:, :, :6].abs().min() > 0 and keys[:, :, 6:].abs().max() == 0
    torch.testing.assert_close(torch.cat(pieces, 1), layer(x), rtol=1e-10, atol=1e-12)


def test_under_bf16_autocast_it_is_close_to_fp32():
    layer = make(num_kv_heads=2).float()
    x = torch.randn(2, 32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=3e-2, atol=3e-2)


def test_dropout_acts_in_training_only():
    layer = make(num_kv_heads=4, dropout=0.5)
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_swiglu_has_about_as_many_parameters_as_gelu():
    sizes = {name: default_feedforward_size(96, name) for name in ("gelu", "swiglu")}
    assert sizes == {"gelu": 384, "swiglu": 256}
    counts = [
        sum(
            p.numel()
            for p in FeedForward(96, size, name, bias=False, dropout=0.0, std=0.02, projection_std=0.02).parameters()
        )
        for name, size in sizes.items()
    ]
    assert counts[0] == counts[1]


def whole_text(**changes):
    torch.manual_seed(0)
    settings = {"bias": True, "dropout": 0.0, "std": 0.5, "projection_std": 0.5}
    return drawn(Attention(16, 4, **(settings | changes)).double())


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_a_whole_text_equals_it_written_out(masked):
    layer = whole_text()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = (part.view(2, 5, 4, 4).transpose(1, 2) for part in layer.qkv(x).split(16, dim=-1))
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()[:, None, None]
    scores = q @ k.transpose(-2, -1) / 2
    scores = scores.masked_fill(~seen, -torch.inf) if masked else scores
    expected = layer.projection((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(layer(x, mask=seen if masked else None), expected, rtol=1e-10, atol=1e-12)


def test_attention_weights_are_dropped_by_a_probability_of_their_own():
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    for changes in ({"dropout": 0.5, "attention_dropout": 0.0}, {"attention_dropout": 0.5}, {"dropout": 0.5}):
        layer = whole_text(**changes)
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))
    assert whole_text(dropout=0.3).attention_dropout == 0.3
    layer = whole_text(attention_dropout=0.0)
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_cross_attention_equals_it_written_out_also_for_several_rows_of_a_source(num_kv_heads):
    layer = whole_text(cross=True, num_kv_heads=num_kv_heads)
    x, source = torch.randn(4, 3, 16, dtype=torch.float64), torch.randn(2, 5, 16, dtype=torch.float64)
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()[:, None, None]
    memory = layer.keys_values(source)
    assert memory.shape == (2, 2, num_kv_heads, 5, 4)
    q = layer.query(x).view(4, 3, 4, 4).transpose(1, 2)
    k, v = (part.repeat_interleave(2, 0).repeat_interleave(4 // num_kv_heads, 1) for part in memory)
    scores = (q @ k.transpose(-2, -1) / 2).masked_fill(~seen.repeat_interleave(2, 0), -torch.inf)
    expected = layer.projection((scores.softmax(-1) @ v).transpose(1, 2).reshape(4, 3, 16))
    torch.testing.assert_close(layer(x, mask=seen, memory_2BGSK=memory), expected, rtol=1e-10, atol=1e-12)
