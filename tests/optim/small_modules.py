"""A small module with every kind of parameter, gradients for it, and steps of an optimizer, for the tests here."""

import torch
from torch import nn

from bigtrain.nn.backbone import Backbone
from bigtrain.registry import OPTIMIZERS

ZERO, ONE = torch.zeros(()), torch.ones(())


class Parts(nn.ModuleDict, Backbone):
    """A backbone of named parts."""


class Small(nn.Module):
    """Named as networks are: an embedding, a channels-last convolution, norms and layers below, a head above."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.backbone = Parts(
            {
                "token_embedding": nn.Embedding(7, 8),
                "convolution": convolution,
                "wide": nn.Linear(6, 16),
                "norm": nn.LayerNorm(16),
                "square": nn.Linear(16, 16),
                "square_too": nn.Linear(16, 16, bias=False),
            }
        )
        self.heads = nn.ModuleDict({"regression": nn.Linear(16, 2)})

    def forward(self, x):
        """(B, 6) → (B, 2); the embedding and the convolution are there to be updated only."""
        x = self.backbone["norm"](torch.tanh(self.backbone["wide"](x)))
        x = x + self.backbone["square_too"](torch.tanh(self.backbone["square"](x)))
        return self.heads["regression"](x)


def build(name, module, **settings):
    """A registered optimizer."""
    entry = OPTIMIZERS[name]
    return entry.load()(entry.config_class(**settings), module)


def set_gradients(module, seed, scale=1.0):
    """The same random gradients for the same seed, laid out as the parameters are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = torch.empty_like(parameter).copy_(noise) if parameter.requires_grad else None


def run(optimizer, module, steps, found_inf=ZERO, grad_scale=ONE):
    """Steps with the gradients of their numbers."""
    for step in steps:
        set_gradients(module, step)
        optimizer.step(found_inf, grad_scale)


def everything(optimizer, module):
    """Copies of all weights and all state, by name."""
    tensors = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value.clone()
    return tensors


def same_bytes(one, other):
    """Whether two such collections are equal to the bit (-0.0 is not 0.0)."""
    assert one.keys() == other.keys()
    pairs = [(one[key].flatten(), other[key].flatten()) for key in one]
    return all(torch.equal(first.view(torch.uint8), second.view(torch.uint8)) for first, second in pairs)


def skipped_steps_change_nothing(make, bad):
    """A skipped step, whose gradients and grad_scale are `bad`, leaves no trace: neither at once nor in later steps."""
    module, twin = Small(), Small()
    optimizer, plain = make(module), make(twin)
    for skipped_at in (0, 3):
        before = everything(optimizer, module)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, bad)
        optimizer.step(ONE, torch.tensor(bad))
        assert same_bytes(before, everything(optimizer, module))
        for either, network in ((optimizer, module), (plain, twin)):
            run(either, network, range(skipped_at, skipped_at + 3))
    assert same_bytes(everything(optimizer, module), everything(plain, twin))
