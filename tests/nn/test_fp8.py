"""Linear layers in fp8 equal the formula with its roundings written out, forward and backward."""

import copy

import pytest
import torch
from torch import nn

from bigtrain.nn import fp8
from bigtrain.nn.fp8 import Float8Linear, linear_layers, quantise, train_in_fp8


@pytest.fixture(autouse=True)
def narrow_is_wide(monkeypatch):
    monkeypatch.setattr(fp8, "WIDE", 32)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def e4m3(values):
    """float64 rounded to three bits of mantissa, to even, with exponents from -6 and so steps of at least 2^-9."""
    exponent = values.abs().clamp_min(2.0**-6).log2().floor()
    step = 2.0 ** (exponent - 3)
    return (values / step).round() * step


def rounded(x_ND):
    """What an fp8 product sees of x, in float64: each row scaled to a largest value in [2^7, 2^8) and rounded."""
    x_ND = x_ND.double()
    scale_N1 = 2.0 ** (x_ND.abs().amax(dim=1, keepdim=True).log2().floor() - 7)
    return e4m3(x_ND / scale_N1) * scale_N1


def both(features=(64, 96), bias=True):
    """A linear layer and a copy that trains in fp8."""
    torch.manual_seed(0)
    linear = nn.Linear(*features, bias=bias)
    converted = copy.deepcopy(linear)
    assert train_in_fp8([converted]) == 1
    return linear, converted


def test_rounding_is_that_of_e4m3_per_row():
    x = random(50, 64) * torch.logspace(-20, 20, 50)[:, None]
    quantised, scale = quantise(x)
    assert quantised.dtype == torch.float8_e4m3fn
    assert scale.shape == (50, 1)
    assert torch.equal(quantised.double() * scale, rounded(x))
    assert (scale.log2() == scale.log2().round()).all()
    assert quantised.float().abs().amax() <= 256  # 255.9 is rounded up
    error, largest = (quantised.double() * scale - x).abs(), x.abs().amax(dim=1, keepdim=True)
    assert (error <= 2.0**-4 * x.abs().clamp_min(2.0**-13 * largest)).all()


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-30, 1e30, 3e38])
def test_rows_of_any_size_stay_finite(value):
    quantised, scale = quantise(torch.full((2, 32), value))
    torch.testing.assert_close(quantised.double() * scale, torch.full((2, 32), value).double(), rtol=2**-4, atol=1e-30)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_the_formula(bias, input_dtype):
    _, linear = both(bias=bias)
    x = random(5, 7, 64).to(input_dtype).requires_grad_()
    upstream = random(5, 7, 96, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
    y.backward(upstream)
    assert y.dtype == torch.bfloat16
    assert (x.grad.dtype, linear.weight.grad.dtype) == (input_dtype, torch.float32)

    rows, gradient = x.detach().bfloat16().flatten(0, 1).double(), upstream.flatten(0, 1).double()
    weight = rounded(linear.weight.detach())
    expected = rounded(rows) @ weight.T + (linear.bias.double() if bias else 0)
    scale_O = 2.0 ** (linear.weight.detach().double().abs().amax(dim=1).log2().floor() - 7)
    x_gradient = rounded(gradient * scale_O) @ (weight / scale_O[:, None])
    # Only bf16 stands between: of the product, then of the result, each half of 2^-8.
    for ours, formula in ((y, expected), (x.grad, x_gradient)):
        torch.testing.assert_close(ours.flatten(0, 1).double(), formula, rtol=2**-8, atol=2**-8)
    torch.testing.assert_close(linear.weight.grad.double(), gradient.T @ rows, rtol=2**-8, atol=2**-8)
    if bias:
        torch.testing.assert_close(linear.bias.grad.double(), gradient.sum(dim=0), rtol=2**-8, atol=2**-8)


def test_it_is_near_the_exact_layer_as_rounding_to_three_bits_is():
    exact, linear = both((256, 128))
    x, upstream = random(64, 256), random(64, 128, seed=1)
    found = []
    for layer in (exact, linear):
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        y.backward(upstream.to(y.dtype))
        found.append((y.double(), inputs.grad, layer.weight.grad))
    for (exact_one, ours), bound in zip(zip(*found, strict=True), (0.05, 0.05, 0.005), strict=True):
        assert (ours - exact_one).norm() < bound * exact_one.norm()


def test_an_outlier_costs_its_own_row_only():
    _, linear = both(bias=False)
    x = random(8, 64)
    spoilt = x.clone()
    spoilt[3, 5] = 1e6
    others = [row for row in range(8) if row != 3]
    assert torch.equal(linear(x)[others], linear(spoilt)[others])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["input", "weight", "gradient"])
def test_what_is_not_finite_does_not_hide(value, where):
    """e4m3 has no infinity, and conversion to it may saturate."""
    _, linear = both()
    x, upstream = random(4, 64), random(4, 96, seed=1).bfloat16()
    with torch.no_grad():
        {"input": x, "weight": linear.weight, "gradient": upstream}[where][2, 3] = value
    y = linear(x.requires_grad_())
    y.backward(upstream)
    if where == "input":
        assert not y[2].isfinite().any()
        assert y[:2].isfinite().all()
        assert not linear.weight.grad.isfinite().all()
    elif where == "weight":
        assert not y[:, 2].isfinite().any()
        assert not x.grad.isfinite().any()
    else:
        assert not x.grad[2].isfinite().any()
        assert not linear.weight.grad[3].isfinite().all()


def test_evaluation_is_that_of_the_plain_layer():
    plain, linear = both()
    x = random(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear.eval()(x), plain(x))
        assert not torch.equal(linear.train()(x), plain(x))


def test_names_ties_and_tensors_stay():
    model = nn.ModuleDict(
        {"first": nn.Linear(64, 64), "second": nn.Linear(64, 64, bias=False), "norm": nn.LayerNorm(64)}
    )
    model["second"].weight = model["first"].weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert train_in_fp8(model.values()) == 2
    assert train_in_fp8(model.values()) == 2
    assert type(model["first"]) is Float8Linear
    assert model["second"].weight is model["first"].weight
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("features", "wide"), [((32, 32), 1), ((16, 64), 0), ((64, 16), 0), ((40, 64), 0), ((64, 40), 0)]
)
def test_wide_is_a_rule_of_both_features(features, wide):
    assert train_in_fp8([nn.Linear(*features)]) == wide


def test_other_kinds_of_linear_layers_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert linear_layers(Scaled(64, 64)) == []
    assert train_in_fp8([Scaled(64, 64)]) == 0


def test_frozen_weights_get_no_gradient():
    _, linear = both()
    linear.requires_grad_(False)
    x = random(4, 64).requires_grad_()
    linear(x).float().sum().backward()
    assert linear.weight.grad is None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_block_compiles_without_a_break_and_is_the_eager_one(backend):
    """Norm, layer, nonlinearity, layer: what is fused on a GPU."""
    torch.manual_seed(0)
    layers = nn.Linear(64, 96), nn.Linear(96, 64, bias=False)
    block = nn.Sequential(nn.RMSNorm(64), layers[0], nn.GELU(), layers[1])
    train_in_fp8([block])
    x, found = random(2, 6, 64), []
    for call in (block, torch.compile(block, fullgraph=True, backend=backend)):
        block.zero_grad()
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = inputs + call(inputs)
        y.square().sum().backward()
        found.append([y.detach(), inputs.grad, *(parameter.grad.clone() for parameter in block.parameters())])
    # The compiler leaves out roundings to bf16 between operations, and a value beside a tie then falls to another side.
    for eager, compiled in zip(*found, strict=True):
        assert (eager - compiled).norm() <= 0.02 * eager.norm()
