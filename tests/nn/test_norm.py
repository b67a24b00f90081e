"""RMS norm equals its formula and PyTorch's, value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from bigtrain.nn.norm import make_norm, rms_norm


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_and_its_gradient_equal_the_formula(shape, weighted):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True) if weighted else None
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    formula = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (weight if weighted else 1)
    inputs = (x, weight) if weighted else (x,)
    expected = torch.autograd.grad(formula, inputs, upstream)
    y = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(y, formula, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, upstream), expected, rtol=1e-12, atol=1e-13)


def test_rms_norm_is_the_same_with_and_without_gradients():
    x, weight = torch.randn(5, 16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    with torch.no_grad():
        expected = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(rms_norm(x.requires_grad_(), weight, 1e-5), expected, rtol=1e-14, atol=1e-14)


def test_rms_norm_works_inside_in_fp32_and_keeps_bf16():
    x = torch.randn(4, 64).bfloat16().requires_grad_()
    y = rms_norm(x, None, 1e-5)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.rms_norm(x.float(), (64,), None, 1e-5), rtol=1e-2, atol=1e-2)


def test_norms_by_name():
    assert make_norm("layernorm", 4, epsilon=1e-5, bias=True).bias is not None
    assert make_norm("layernorm", 4, epsilon=1e-5, bias=False).bias is None
    assert [name for name, _ in make_norm("rmsnorm", 4, epsilon=1e-5, bias=True).named_parameters()] == ["weight"]
    with pytest.raises(ValueError, match="allowed"):
        make_norm("nonorm", 4, epsilon=1e-5, bias=True)
