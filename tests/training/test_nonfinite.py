"""The flag sticks: on a GPU the host learns of a bad step one step late, and nothing may be applied meanwhile."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bigtrain.training.nonfinite import NonFiniteGuard

CPU = torch.device("cpu")
ONE = torch.ones(())


def test_every_step_after_a_bad_one_is_skipped_and_the_first_is_named():
    guard = NonFiniteGuard(nn.Linear(2, 2), CPU)
    losses = [1.0, 2.0, float("inf"), 1.0]
    assert [float(guard.found_inf(step, torch.tensor(loss), ONE)) for step, loss in enumerate(losses)] == [0, 0, 1, 1]
    guard.found_inf(4, torch.tensor(float("nan")), ONE)
    assert guard.first_bad_step() == 2


def test_running_statistics_go_back_to_those_before_the_bad_step():
    module = nn.BatchNorm1d(3)
    guard = NonFiniteGuard(module, CPU)
    module(torch.randn(8, 3))
    guard.before_forward()
    good = module.running_mean.clone()
    module(torch.full((8, 3), float("nan")))
    assert module.running_mean.isnan().all()
    guard.found_inf(0, ONE, torch.tensor(float("nan")))
    assert torch.equal(module.running_mean, good)


def test_a_good_step_keeps_its_running_statistics():
    module = nn.BatchNorm1d(3)
    guard = NonFiniteGuard(module, CPU)
    guard.before_forward()
    module(torch.randn(8, 3))
    moved = module.running_mean.clone()
    guard.found_inf(0, ONE, ONE)
    assert torch.equal(module.running_mean, moved)
    assert guard.first_bad_step() is None


class Kernels(TorchDispatchMode):
    """Counts the calls that compute something."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ not in ("view", "_unsafe_view", "reshape", "split_with_sizes")
        return function(*args, **(kwargs or {}))


def test_keeping_statistics_takes_as_many_kernels_for_many_norms_as_for_one():
    counts = []
    for norms in (1, 9):
        guard = NonFiniteGuard(nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms)), CPU)
        with Kernels() as kernels:
            guard.before_forward()
            guard.found_inf(0, ONE, ONE)
        counts.append(kernels.count)
    assert counts[0] == counts[1]


class Event:
    """Stands in for a CUDA event: notes the order of the calls."""

    def __init__(self):
        self.calls = []

    def record(self):
        self.calls.append("record")

    def synchronize(self):
        self.calls.append("synchronize")


class ReadsOf(TorchDispatchMode):
    """Counts how often the number in `tensor` itself is read."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor, self.count = tensor, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].data_ptr() == self.tensor.data_ptr()
        return function(*args, **(kwargs or {}))


def test_on_a_gpu_the_flag_is_copied_to_the_host_and_read_a_step_later():
    guard = NonFiniteGuard(nn.Linear(2, 2), CPU)
    guard._copied = Event()
    known = []
    with ReadsOf(guard._first_bad_step) as reads:
        for step, loss in enumerate([1.0, float("nan"), 1.0]):
            guard.found_inf(step, torch.tensor(loss), ONE)
            known.append(guard.first_bad_step())
    assert known == [None, None, 1]
    assert reads.count == 0
    assert guard._copied.calls == ["synchronize", "record"] * 3
    assert guard.first_bad_step(wait=True) == 1
