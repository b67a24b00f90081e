"""Under autocast each weight is cast once per step, however many micro-batches there are."""

from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bigtrain.config.run import Precision
from bigtrain.training.precision import ResolvedPrecision

from .conftest import tiny_config


class Casts(TorchDispatchMode):
    """Counts the copies of `weights` in bf16."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.count = {weight.data_ptr() for weight in weights}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and result.dtype == torch.bfloat16:
            self.count += args[0].data_ptr() in self.weights
        return result


def trained(trainer):
    """The weights after two steps, and how many casts of weights a step has made."""
    trainer.module.train()
    with Casts(trainer.parameters) as casts:
        for _ in range(2):
            trainer.train_step(trainer.plan_step())
    return {name: value.clone() for name, value in trainer.module.state_dict().items()}, casts.count / 2


def test_weights_are_cast_once_a_step_and_learn_the_same_bytes(make_trainer, monkeypatch):
    whole = tiny_config(trainer={"precision": Precision.bf16})
    cut = tiny_config(trainer={"precision": Precision.bf16, "micro_batch_size": 2})
    _, of_one_batch = trained(make_trainer(whole, "whole"))
    weights, of_four = trained(make_trainer(cut, "cut"))
    assert of_four == of_one_batch > 0
    monkeypatch.setattr(ResolvedPrecision, "one_cast_per_weight", lambda *arguments: nullcontext())
    expected, cast_anew = trained(make_trainer(cut, "anew"))
    assert cast_anew == 4 * of_one_batch
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())
