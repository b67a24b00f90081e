"""Ways of computing that only CPUs take: equal to PyTorch's own, with their gradients."""

import pytest
import torch
import torch.nn.functional as F

from bigtrain.nn import cpu
from bigtrain.nn.attention import attend
from bigtrain.nn.feedforward import gelu_tanh


def relative(value, reference):
    return float((value.double() - reference).norm() / reference.norm())


def gradients(function, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel()).bfloat16().to(output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, inputs, weights)]


MASKS = {
    "all": (None, False),
    "causal": (None, True),
    "padding": (torch.arange(20) < torch.tensor([20, 7, 1])[:, None], False),
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention_by_products_is_attention(mask):
    seen, causal = MASKS[mask]
    seen = None if seen is None else seen[:, None, None, :]
    q, k, v = torch.randn(3, 3, 2, 20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bias = cpu.attention_bias(q, seen, causal)
    ours = gradients(lambda q, k, v: cpu.AttentionFunction.apply(q, k, v, bias, 0.0), (q, k, v))
    theirs = gradients(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal), (q, k, v)
    )
    for x, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, reference, rtol=1e-10, atol=1e-12)


def test_attention_by_products_drops_weights():
    q, k, v = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def ours(q, k, v):
        torch.manual_seed(3)
        return cpu.AttentionFunction.apply(q, k, v, None, 0.4)

    def written_out(q, k, v):
        torch.manual_seed(3)
        weights = torch.softmax(q @ k.mT / 2, dim=-1)
        kept = torch.native_dropout(weights.detach().flatten(0, 1), 0.4, True)[1].view(weights.shape)
        return (weights * kept / 0.6) @ v

    for x, reference in zip(gradients(ours, (q, k, v)), gradients(written_out, (q, k, v)), strict=True):
        torch.testing.assert_close(x, reference, rtol=1e-10, atol=1e-12)


def test_bf16_attention_is_as_near_to_float64_as_pytorch_kernel():
    inputs = torch.randn(3, 2, 4, 64, 32, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)).unbind()
    assert cpu.attends_by_products(*inputs[:2])
    exact = gradients(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), [x.double() for x in inputs])
    theirs = gradients(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), inputs)
    ours = gradients(lambda *x: attend(*x, causal=True).unflatten(-1, (4, -1)).transpose(1, 2), inputs)
    for x, kernel, reference in zip(ours, theirs, exact, strict=True):
        assert x.dtype == torch.bfloat16
        assert relative(x, reference) < 2 * relative(kernel, reference) < 1e-2


def test_bf16_attention_shares_key_heads():
    q = torch.randn(2, 4, 32, 16, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    k, v = q[:, :2] * 0.5, q[:, 2:] + 1
    ours = gradients(lambda *x: attend(*x, causal=True), (q, k, v))
    exact = gradients(
        lambda *x: F.scaled_dot_product_attention(*x, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2),
        (q.double(), k.double(), v.double()),
    )
    errors = [relative(x, reference) for x, reference in zip(ours, exact, strict=True)]
    assert max(errors) < 1e-2, errors


@pytest.mark.parametrize("shape", [(), (3, 5), (2, 2**17 + 3)])
def test_gelu_of_bf16_is_the_tanh_form(shape):
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).bfloat16()
    assert cpu.uses_own_gelu(x)
    ours, exact = gradients(gelu_tanh, [x]), gradients(lambda x: F.gelu(x, approximate="tanh"), [x.double()])
    for value, reference in zip(ours, exact, strict=True):  # one rounding for the value, two for the gradient
        torch.testing.assert_close(value.double(), reference, rtol=2**-7, atol=1e-6)


def test_gelu_of_a_transposed_tensor():
    x = torch.randn(6, 4).bfloat16().t()
    assert torch.equal(gelu_tanh(x), gelu_tanh(x.contiguous()))
