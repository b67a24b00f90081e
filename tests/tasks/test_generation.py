"""Generation: cached equals uncached, filters keep exactly what they promise, the window slides."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import perturb, tiny_config, tiny_network
from torch import nn

from bigtrain.models.config import Positional, TransformerConfig
from bigtrain.tasks.generation import Sampling, choose, eagerly, generate, stream, top_k_top_p_filtering

GREEDY = Sampling(temperature=0)
PROMPT = [[1, 2, 3], [4, 5, 6]]


def network_for(**changes):
    network = tiny_network(tiny_config(TransformerConfig, **changes))[1]
    return perturb(network.double(), 0.3)


def uncached(network, prompt, max_tokens, sampling, generator=None):
    """The plain way: everything again for every token."""
    network.eval()
    tokens = torch.tensor(prompt)
    with torch.no_grad():
        for _ in range(max_tokens):
            logits = network(tokens).predictions["language_model"].logits()[:, -1]
            tokens = torch.cat((tokens, choose(logits, sampling, generator)[:, None]), dim=1)
    return tokens[:, len(prompt[0]) :]


@pytest.mark.parametrize("positional", list(Positional), ids=lambda positional: positional.name)
@pytest.mark.parametrize("num_kv_heads", [None, 1])
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(0.8), Sampling(1.5, top_k=4), Sampling(1.0, top_p=0.7), Sampling(2.0, 5, 0.8)],
)
def test_cached_equals_uncached_token_for_token(positional, num_kv_heads, sampling):
    network = network_for(positional=positional, num_kv_heads=num_kv_heads)
    expected = uncached(network, PROMPT, 13, sampling, torch.Generator().manual_seed(5))
    actual = generate(network, PROMPT, 13, sampling, generator=torch.Generator().manual_seed(5), max_length=16)
    assert torch.equal(actual, expected)


def test_same_seed_same_text_and_another_seed_another():
    network = network_for()

    def text(seed):
        return generate(network, PROMPT, 12, Sampling(1.0), generator=torch.Generator().manual_seed(seed)).tolist()

    assert text(1) == text(1) != text(2)


def test_beyond_the_window_the_last_half_is_read_again():
    network = network_for(max_length=16)
    actual = generate(network, PROMPT, 40, GREEDY, max_length=8)
    context, expected = PROMPT[0], []
    for _ in range(40):
        if len(context) > 8:
            context = context[-4:]
        token = uncached(network, [context], 1, GREEDY).item()
        context = [*context, token]
        expected.append(token)
    assert actual[0].tolist() == expected


def test_a_prompt_over_the_window_is_read_from_its_end():
    network = network_for(max_length=16)
    prompt = [[token % 11 for token in range(50)]]
    expected = generate(network, [prompt[0][-16:]], 3, GREEDY, max_length=16)
    assert torch.equal(generate(network, prompt, 3, GREEDY, max_length=16), expected)
    assert torch.equal(generate(network, prompt, 3, GREEDY, max_length=99), expected)


def test_the_window_is_as_long_as_in_training_by_default():
    network = network_for(max_length=64)  # trained on 12 tokens
    assert torch.equal(generate(network, PROMPT, 40, GREEDY), generate(network, PROMPT, 40, GREEDY, max_length=12))
    assert not torch.equal(generate(network, PROMPT, 40, GREEDY), generate(network, PROMPT, 40, GREEDY, max_length=64))


@pytest.mark.parametrize("max_length", [1, 2, 3])
def test_the_smallest_windows_work(max_length):
    assert generate(network_for(), PROMPT, 7, GREEDY, max_length=max_length).shape == (2, 7)


def test_stop_id_ends_each_row_and_then_the_stream():
    network = network_for()
    free = generate(network, PROMPT, 12, Sampling(1.0), generator=torch.Generator().manual_seed(0))
    stop = free[0, 2].item()
    stopped = generate(network, PROMPT, 12, Sampling(1.0), generator=torch.Generator().manual_seed(0), stop_id=stop)
    first = free[0].tolist().index(stop)
    assert stopped[0, : first + 1].tolist() == free[0, : first + 1].tolist()
    assert (stopped[0, first:] == stop).all()
    alone = generate(network, [[1, 2, 3]], 12, GREEDY)[0].tolist()
    assert generate(network, [[1, 2, 3]], 12, GREEDY, stop_id=alone[0]).tolist() == [[alone[0]]]


def test_stream_gives_tokens_one_by_one_and_restores_the_mode():
    network = network_for(dropout=0.5).train()
    tokens = stream(network, PROMPT, 10, GREEDY)
    first = next(tokens)
    assert first.shape == (2,) and not network.training
    tokens.close()
    assert network.training
    network.eval()
    rest = list(itertools.islice(stream(network, PROMPT, 10, GREEDY), 3))
    assert torch.equal(rest[0], first) and not network.training


def test_cudnn_does_not_attend_over_lengths_that_come_once_and_does_again_afterwards():
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(ValueError), eagerly(nn.Linear(1, 1)):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        raise ValueError
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_training_goes_on_after_generation():
    network = network_for()
    generate(network, PROMPT, 5, GREEDY)
    network(torch.tensor(PROMPT)).predictions["language_model"].logits().sum().backward()
    assert network.backbone.token_embedding.weight.grad is not None


@pytest.mark.parametrize("prompt", [[], [[]], [[1, 2], [3]], [1, 2]])
def test_prompts_that_are_empty_or_ragged_are_refused(prompt):
    with pytest.raises(ValueError, match="prompt"):
        generate(network_for(), prompt, 3, GREEDY)


rows = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)  # integers: many ties


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, 15))
def test_top_k_keeps_exactly_the_k_largest(row, k):
    logits = torch.tensor([row])
    kept = top_k_top_p_filtering(logits, k, None)[0]
    support = kept > -torch.inf
    assert support.sum() == min(k, len(row))
    assert torch.equal(kept[support], logits[0][support])
    if (~support).any():
        assert logits[0][support].min() >= logits[0][~support].max()


@settings(max_examples=100, deadline=None)
@given(rows, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_holds_p(row, p):
    logits = torch.tensor([row], dtype=torch.float64)
    kept = top_k_top_p_filtering(logits, None, p)[0]
    support = kept > -torch.inf
    probabilities = logits.softmax(-1)[0]
    inside = probabilities[support]
    assert inside.sum() >= p - 1e-9
    assert inside.sum() - inside.min() < p + 1e-9  # one fewer would not do
    if (~support).any():
        assert inside.min() >= probabilities[~support].max()


def test_both_filters_and_the_draws_stay_inside_the_support():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(2000, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: choose(logits, sampling, generator).bincount(minlength=4) / 2000
        for name, sampling in {
            "free": Sampling(1.0),
            "k2": Sampling(1.0, top_k=2),
            "p.7": Sampling(1.0, top_p=0.7),
            "k3 p.6": Sampling(1.0, top_k=3, top_p=0.6),
            "cold": Sampling(0.05),
        }.items()
    }
    torch.testing.assert_close(drawn["free"], torch.tensor([0.5, 0.3, 0.15, 0.05]), rtol=0, atol=0.04)
    torch.testing.assert_close(drawn["k2"], torch.tensor([0.625, 0.375, 0, 0]), rtol=0, atol=0.04)
    torch.testing.assert_close(drawn["p.7"], torch.tensor([0.625, 0.375, 0, 0]), rtol=0, atol=0.04)
    torch.testing.assert_close(drawn["k3 p.6"], torch.tensor([0.625, 0.375, 0, 0]), rtol=0, atol=0.04)
    assert drawn["cold"][0] > 0.99


def test_temperature_zero_is_the_argmax():
    logits = torch.tensor([[1.0, 3, 2], [0, -1, -2]])
    assert choose(logits, GREEDY).tolist() == [1, 0]
