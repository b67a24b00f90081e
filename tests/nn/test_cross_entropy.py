"""Cross entropy in chunks is PyTorch's cross entropy, value and gradients."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.nn.cross_entropy import UNSCORED, Chunking, _compiled_chunk, soft_cap, vocabulary_cross_entropy


def chunks(max_logits, **others):
    return Chunking(max_logits, plain_logits=max_logits, **others)


def problem(rows, width, vocab, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.3] = UNSCORED
    return hidden, weight, targets


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 17),
    vocab=st.integers(1, 11),
    chunk=st.integers(1, 200),
    softcap=st.sampled_from([None, 2.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    biased=st.booleans(),
    alignment=st.sampled_from([1, 4, 64]),
    seed=st.integers(0, 99),
)
def test_equals_plain_cross_entropy_with_gradients_for_any_chunk(
    rows, vocab, chunk, softcap, smoothing, biased, alignment, seed
):
    hidden, weight, targets = problem(rows, 5, vocab, seed)
    bias = torch.linspace(-1, 2, vocab, dtype=torch.float64, requires_grad=True) if biased else None
    logits = soft_cap(hidden @ weight.t() + (bias if biased else 0), softcap)
    expected = F.cross_entropy(logits, targets, ignore_index=UNSCORED, reduction="sum", label_smoothing=smoothing)
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    expected_gradients = torch.autograd.grad(expected * 0.7, inputs)
    loss = vocabulary_cross_entropy(
        hidden, weight, targets, softcap, smoothing, bias, chunks(chunk, alignment=alignment)
    )
    gradients = torch.autograd.grad(loss * 0.7, inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk_logits", [9, 10**9])
def test_smoothed_targets_by_hand(chunk_logits):
    """Three tokens, ε = 0.3: the target has 0.8 of the probability, the others 0.1 each."""
    hidden, weight = torch.tensor([[1.0]]).double(), torch.tensor([[0.0], [1.0], [2.0]]).double()
    loss = vocabulary_cross_entropy(
        hidden, weight, torch.tensor([2]), chunking=chunks(chunk_logits), label_smoothing=0.3
    )
    log_p = torch.tensor([0.0, 1.0, 2.0]).double().log_softmax(0)
    assert loss.item() == pytest.approx(-(0.8 * log_p[2] + 0.1 * log_p[1] + 0.1 * log_p[0]).item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_no_tensor_of_all_logits_is_made(smoothing):
    hidden, weight, targets = problem(64, 4, 50, seed=0)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        vocabulary_cross_entropy(hidden, weight, targets, chunking=chunks(500), label_smoothing=smoothing).backward()
    assert largest <= 500


@pytest.mark.parametrize("chunk_logits", [10, 10**9])
def test_huge_logits_stay_finite(chunk_logits):
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    loss = vocabulary_cross_entropy(hidden, weight, torch.tensor([0, 0]), chunking=chunks(chunk_logits))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("chunk_logits", [64, 10**9])
def test_under_bf16_autocast_the_sum_is_fp32_and_close(chunk_logits):
    hidden, weight, targets = problem(32, 16, 20, seed=3, dtype=torch.float32)
    exact = vocabulary_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_cross_entropy(hidden, weight, targets, chunking=chunks(chunk_logits))
    loss.backward()
    assert loss.dtype == torch.float32 and weight.grad.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)


def test_gradient_only_where_wanted():
    hidden, weight, targets = problem(8, 4, 5, seed=0)
    loss = vocabulary_cross_entropy(hidden.detach(), weight, targets, chunking=chunks(10))
    loss.backward()
    assert hidden.grad is None and weight.grad is not None
    with torch.no_grad():
        evaluated = vocabulary_cross_entropy(hidden, weight, targets, chunking=chunks(10))
    assert not evaluated.requires_grad and evaluated == loss


@given(st.floats(-1e6, 1e6), st.floats(0.1, 100))
def test_softcap_bounds_and_keeps_order(x, cap):
    logits = torch.tensor([x, x + 1.0], dtype=torch.float64)
    capped = soft_cap(logits, cap)
    assert capped.abs().max() <= cap
    assert capped[0] <= capped[1]


def test_softcap_leaves_small_logits_alone():
    small = torch.tensor([0.01, -0.02], dtype=torch.float64)
    torch.testing.assert_close(soft_cap(small, 30.0), small, rtol=1e-6, atol=0)


def test_the_chunked_weight_gradient_is_scaled_before_it_is_rounded_to_fp16():
    """Summed over 200,000 targets of one token it is beyond fp16's 65,504; the mean over them is not."""
    torch.manual_seed(0)
    hidden = torch.ones(200_000, 4, dtype=torch.float16)
    weight = torch.zeros(8, 4, dtype=torch.float16, requires_grad=True)
    targets = torch.full((200_000,), 3)
    total = vocabulary_cross_entropy(hidden, weight, targets, chunking=chunks(2**16))
    (total / len(targets)).backward()
    expected = torch.full((8, 4), 1 / 8)
    expected[3] -= 1
    assert torch.allclose(weight.grad.float(), expected, atol=1e-3)


@pytest.mark.parametrize(("softcap", "smoothing"), [pytest.param(None, 0.0, marks=pytest.mark.slow), (2.0, 0.1)])
def test_a_compiled_chunk_is_the_eager_one(softcap, smoothing):
    """With a padded vocabulary and a last chunk that is smaller than the others."""
    hidden, weight, targets = problem(70, 5, 131, seed=1)
    bias = torch.linspace(-1, 2, 131, dtype=torch.float64, requires_grad=True)
    results = []
    for compiled in (False, True):
        chunking = chunks(131 * 32, alignment=64, compiled=compiled)
        loss = vocabulary_cross_entropy(hidden, weight, targets, softcap, smoothing, bias, chunking)
        results.append((loss.detach(), *torch.autograd.grad(loss * 0.7, (hidden, weight, bias))))
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-10, atol=1e-12)


def test_more_variants_than_torch_compiles_by_default_stay_compiled(monkeypatch):
    """By default the ninth runs eagerly."""
    calls = 0

    def backend(graph, inputs):
        def run(*arguments):
            nonlocal calls
            calls += 1
            return graph.forward(*arguments)

        return run

    _compiled_chunk.cache_clear()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    variants = [*itertools.product((None, 2.0), (0.0, 0.1), (True, False), (torch.float32,))]
    variants.append((None, 0.0, True, torch.float64))
    chunking = Chunking(plain_logits=0, compiled=True)
    try:
        for softcap, smoothing, trained, dtype in variants:
            hidden, weight, targets = problem(7, 3, 11, seed=0, dtype=dtype)
            with torch.set_grad_enabled(trained):
                vocabulary_cross_entropy(hidden, weight, targets, softcap, smoothing, chunking=chunking)
    finally:
        _compiled_chunk.cache_clear()
        torch.compiler.reset()
    assert calls == len(variants) == 9


@pytest.mark.parametrize("vocab", [1, 255, 50257, 128256])
@pytest.mark.parametrize(("softcap", "smoothing", "biased"), [(None, 0.0, False), (None, 0.1, True), (3.0, 0.1, True)])
def test_in_float64_it_is_the_plain_formula_at_the_sizes_of_real_vocabularies(vocab, softcap, smoothing, biased):
    """On a padded vocabulary and in two chunks, with targets that are not scored: to 1e-10."""
    hidden, weight, targets = problem(5, 6, vocab, seed=4)
    targets[0], targets[1] = vocab - 1, UNSCORED
    bias = torch.linspace(-1, 2, vocab, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    log_p = soft_cap(F.linear(hidden, weight, bias), softcap).log_softmax(dim=1)
    scored = targets != UNSCORED
    on_target = log_p.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    plain = -((1 - smoothing) * on_target + smoothing * log_p.mean(dim=1))[scored].sum()
    loss = vocabulary_cross_entropy(
        hidden, weight, targets, softcap, smoothing, bias, Chunking(3 * vocab, plain_logits=0, alignment=64)
    )
    torch.testing.assert_close(loss, plain, rtol=1e-10, atol=1e-10)
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("vocab", [255, 50257])
def test_in_bf16_padding_and_chunks_are_as_close_to_fp32_as_the_plain_formula(vocab):
    hidden, weight, targets = problem(48, 32, vocab, seed=2, dtype=torch.float32)
    weight = (weight.detach() * 0.2).requires_grad_()
    exact = torch.autograd.grad(vocabulary_cross_entropy(hidden, weight, targets), (hidden, weight))
    errors = []
    small = chunks(20 * vocab, alignment=64)
    for chunking in (chunks(10**9), small, *([small._replace(compiled=True)] if vocab == 255 else [])):
        with torch.autocast("cpu", torch.bfloat16):
            loss = vocabulary_cross_entropy(hidden, weight, targets, chunking=chunking)
        gradients = torch.autograd.grad(loss, (hidden, weight))
        errors.append([float((some - true).norm() / true.norm()) for some, true in zip(gradients, exact, strict=True)])
    plain = errors[0]
    assert all(one <= 1.25 * of_plain for some in errors for one, of_plain in zip(some, plain, strict=True)), errors
