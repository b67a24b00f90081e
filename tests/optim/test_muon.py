"""Muon on a GPU is launches: how many, without one."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bigtrain.optim.muon import MuonRule

from .small_modules import ONE, ZERO

NO_KERNEL = {"view", "empty_like"}
SHAPES = [(8, 8), (24, 8), (8, 32), (32, 8)]  # of a transformer block


class Kernels(TorchDispatchMode):
    """Counts the calls that compute something."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.calls[name] += name not in NO_KERNEL
        return function(*args, **(kwargs or {}))


def kernels(layers):
    """Calls of one update of so many layers."""
    rule = MuonRule(momentum=0.95, nesterov=True, weight_decay=0.1)
    weights, gradients = ([torch.randn(shape) for _ in range(layers) for shape in SHAPES] for _ in range(2))
    states = [rule.initial_state(weight) for weight in weights]
    with Kernels() as mode:
        rule.update(weights, gradients, states, lr=0.1, found_inf=ZERO, grad_scale=ONE)
    return mode.calls


def test_an_update_launches_as_many_kernels_for_twelve_layers_as_for_two():
    assert kernels(12) == kernels(2)
