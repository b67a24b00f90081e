"""The flag sticks: on a GPU the host learns of a bad step one step late, and nothing may be applied meanwhile."""

import torch
from torch import nn

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
