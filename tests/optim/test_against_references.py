"""Every algorithm against PyTorch's, or against its paper written down as a loop."""

import copy

import pytest
import torch
from torch import nn

import bigtrain.optim.muon
from bigtrain.nn.backbone import Backbone
from bigtrain.optim.muon import orthogonalization_dtype, orthogonalize
from tests.optim.small_modules import ZERO, Small, build, run, set_gradients

FUSED = {
    "adamw": (
        {"learning_rate": 0.01, "weight_decay": 0.1},
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), fused=True),
    ),
    "adam": (
        {"learning_rate": 0.01, "weight_decay": 0.1},
        lambda groups: torch.optim.Adam(groups, lr=0.01, fused=True),
    ),
    "sgd": (
        {"learning_rate": 0.01, "weight_decay": 0.1},
        lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True),
    ),
    "sgd, plain": (
        {"learning_rate": 0.01, "weight_decay": 0.1, "momentum": 0.0, "nesterov": False},
        lambda groups: torch.optim.SGD(groups, lr=0.01, fused=True),
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_optimizers_give_the_bytes_of_pytorchs(name):
    settings, make = FUSED[name]
    module, other = Small(), Small()
    ours = build(name.split(",")[0], module, **settings)
    matrices = [parameter for parameter in other.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in other.parameters() if parameter.ndim < 2]
    theirs = make([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])
    run(ours, module, range(5))
    for step in range(5):
        set_gradients(other, step)
        theirs.step()
    for (key, one), two in zip(module.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), key


class Matrices(nn.Module):
    """Weights of several shapes, two of them alike, one of them a convolution's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone()
        self.backbone.blocks = nn.ModuleList(
            [nn.Linear(12, 12, bias=False), nn.Linear(12, 30, bias=False), nn.Linear(30, 12, bias=False)]
            + [nn.Linear(12, 30, bias=False), nn.Conv2d(3, 9, 2, bias=False)]
        )


def flattened(module):
    """The same weights as plain matrices, as PyTorch's Muon and Adafactor want them."""
    return [nn.Parameter(parameter.detach().flatten(1).clone()) for parameter in module.parameters()]


def step_both(ours, module, theirs, matrices, steps=4):
    """The same gradients for both."""
    for step in range(steps):
        set_gradients(module, step)
        for parameter, matrix in zip(module.parameters(), matrices, strict=True):
            matrix.grad = parameter.grad.flatten(1).clone()
        ours.step(ZERO, torch.tensor(1.5))  # the grad_scale must not matter to what is scale-free
        theirs.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_in_fp32_is_pytorchs_muon(monkeypatch, nesterov):
    monkeypatch.setattr(bigtrain.optim.muon, "orthogonalization_dtype", lambda device: torch.float32)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # the dtype that torch's has written into it
    module = Matrices()
    matrices = flattened(module)
    settings = {"momentum": 0.95, "weight_decay": 0.1, "nesterov": nesterov}
    ours = build("muon", module, learning_rate=0.1, **settings)
    step_both(ours, module, torch.optim.Muon(matrices, lr=0.1, adjust_lr_fn="match_rms_adamw", **settings), matrices)
    for parameter, matrix in zip(module.parameters(), matrices, strict=True):
        assert torch.allclose(parameter.flatten(1), matrix, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 1), (8, 64), (64, 8), (33, 20)])
def test_orthogonalizing_evens_out_singular_values_and_keeps_directions(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    for dtype in (torch.float32, orthogonalization_dtype(matrices.device)):
        result = orthogonalize(matrices.to(dtype, copy=True)).float()
        values = left.mT @ result @ right.mT
        diagonal = values.diagonal(dim1=1, dim2=2)
        assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
        assert (values - torch.diag_embed(diagonal)).abs().max() < 0.1


def test_orthogonalizing_zero_gives_zero():
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


def test_muon_in_half_precision_stays_close_to_fp32(monkeypatch):
    module = Matrices()
    exact = copy.deepcopy(module)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    run(build("muon", module, weight_decay=0.0), module, range(1))
    monkeypatch.setattr(bigtrain.optim.muon, "orthogonalization_dtype", lambda device: torch.float32)
    run(build("muon", exact, weight_decay=0.0), exact, range(1))
    for before, one, two in zip(start, module.parameters(), exact.parameters(), strict=True):
        assert torch.linalg.norm(one - two) < 0.05 * torch.linalg.norm(two - before)


def test_adafactor_is_pytorchs_with_steps_that_are_not_relative():
    """PyTorch's has min(lr, 1/sqrt(t)) · max(eps2, RMS(weight)): at this rate, and with weights below 1, that is lr."""
    module = Matrices()
    matrices = flattened(module)
    ours = build("adafactor", module, learning_rate=0.01, weight_decay=0.1, clip_threshold=1.0)
    theirs = torch.optim.Adafactor(matrices, lr=0.01, weight_decay=0.1, eps=(None, 1.0), d=1.0)
    step_both(ours, module, theirs, matrices)
    for parameter, matrix in zip(module.parameters(), matrices, strict=True):
        assert torch.allclose(parameter.flatten(1), matrix, rtol=0, atol=1e-6)


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix_and_all_of_a_vector():
    module = Small()
    optimizer = build("adafactor", module)
    convolution = optimizer.state[module.backbone["convolution"].weight]
    assert {key: tuple(value.shape) for key, value in convolution.items()} == {
        "step": (),
        "row_variance": (4,),
        "column_variance": (27,),
    }
    assert optimizer.state[module.backbone["norm"].bias]["variance"].shape == (16,)
    vectors = [nn.Parameter(parameter.detach().clone()) for parameter in module.parameters() if parameter.ndim < 2]
    theirs = torch.optim.Adafactor(vectors, lr=3e-3, eps=(None, 1.5), d=1.0)  # norm gains have a mean square of 1
    for group in theirs.param_groups:
        group["lr"] = 3e-3 / 1.5
    for step in range(3):
        set_gradients(module, step)
        for mine, other in zip((p for p in module.parameters() if p.ndim < 2), vectors, strict=True):
            other.grad = mine.grad.clone()
        optimizer.step(ZERO, torch.ones(()))
        theirs.step()
    for mine, other in zip((p for p in module.parameters() if p.ndim < 2), vectors, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-6)


def test_lion_is_the_papers_algorithm():
    """Chen et al. 2023, algorithm 2."""
    module, other = Small(), Small()
    ours = build("lion", module, learning_rate=0.01, weight_decay=0.3, betas=[0.9, 0.99])
    means = [torch.zeros_like(parameter) for parameter in other.parameters()]
    run(ours, module, range(4))
    with torch.no_grad():
        for step in range(4):
            set_gradients(other, step)
            for parameter, mean in zip(other.parameters(), means, strict=True):
                update = torch.sign(0.9 * mean + 0.1 * parameter.grad)
                decay = 0.3 if parameter.ndim >= 2 else 0.0
                parameter -= 0.01 * (update + decay * parameter)
                mean.copy_(0.99 * mean + 0.01 * parameter.grad)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-6)
