"""Activations computed again instead of kept: the same training to the bit, with dropout, under bf16, over families."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_runs import make_trainer as make_tiny_run
from tiny_runs import runs
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bigtrain.config.run import Precision
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.nn.activation_checkpointing import checkpoint_activations
from bigtrain.optim.config import AdamWConfig

from .conftest import tiny_config, with_trainer

ALONE = World(0, 1, torch.device("cpu"))
RANDOM = {"dropout": 0.3, "stochastic_depth": 0.3, "batch_norm": True}


def every_family():
    """One run of each model: with dropout, stochastic depth and batch norm where it has them."""
    found = {}
    for name, (model, task, spec) in runs().items():
        if not model.counts:
            changes = {key: value for key, value in RANDOM.items() if hasattr(model, key)}
            found.setdefault(name.partition("-")[0], (replace(model, **changes), task, spec))
    return found


FAMILIES = every_family()


def trained(run, folder, **settings):
    """The state and the gradient norm after three steps of two micro-batches."""
    trainer = make_tiny_run(run, folder, ALONE, AdamWConfig(learning_rate=2**-6), micro_batch_size=2, **settings)
    trainer.module.train()
    norms = []
    for _ in range(3):
        trainer.train_step(trainer.plan_step())
        norms.append(float(trainer.grad_norm))
    return trainer.module.state_dict(), norms


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_is_the_same_to_the_bit(name, precision, tmp_path):
    """Running statistics too, which a second pass must not update again."""
    expected, norms = trained(FAMILIES[name], tmp_path / "off", precision=precision)
    has_attention = name in ("transformer", "bert", "seq2seq")
    for setting in ("full", "2", *(["attention"] if has_attention else [])):
        state, again = trained(
            FAMILIES[name], tmp_path / setting, precision=precision, activation_checkpointing=setting
        )
        assert list(state) == list(expected), "names are those of a run without"
        assert [key for key in state if not torch.equal(state[key], expected[key])] == []
        assert again == norms


def test_every_nth_block_is_chosen_and_the_choice_is_told(make_trainer):
    config = tiny_config()
    shown = {}
    for setting in ("off", "full", "2", "attention"):
        trainer = make_trainer(with_trainer(config, activation_checkpointing=setting), setting)
        shown[setting] = trainer.state.resolved.get("activation_checkpointing")
    assert shown == {"off": None, "full": "2 of 2 blocks", "2": "1 of 2 blocks", "attention": "attention of 2 blocks"}


@pytest.mark.parametrize(("name", "fix"), [("lstm", "full"), ("resnet", "full")])
def test_attention_is_refused_where_there_is_none(name, fix, tmp_path):
    with pytest.raises(ConfigError, match=f"has no attention(.|\n)*activation_checkpointing={fix}"):
        trained(FAMILIES[name], tmp_path, activation_checkpointing="attention")


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self):
        super().__init__()
        self.linear, self.passes = nn.Linear(4, 4), 0

    def forward(self, x):
        self.passes += 1
        return torch.tanh(self.linear(x)).square()


def test_only_a_pass_that_trains_is_done_again():
    block, x = Counting(), torch.ones(2, 4)
    checkpoint_activations([block, block])  # the second time changes nothing
    block(x).sum().backward()
    assert block.passes == 2
    with torch.no_grad():
        block(x)
    block.eval()
    block(x).sum().backward()
    assert block.passes == 4


def test_a_checkpoint_keeps_less_memory(make_trainer):
    """The most that the CPU's allocator has given out in a step, beyond what it had before."""
    config = tiny_config()
    config = replace(config, model=replace(config.model, num_layers=8, hidden_size=32), trainer=config.trainer)
    peaks = {}
    for setting in ("off", "attention", "2", "full"):
        trainer = make_trainer(with_trainer(config, activation_checkpointing=setting), setting)
        trainer.module.train()
        trainer.train_step(trainer.plan_step())
        plan = trainer.plan_step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train_step(plan)
        peaks[setting] = peak_bytes(profiler)
    assert peaks["full"] < peaks["2"] < peaks["off"] and peaks["full"] < peaks["attention"] < peaks["off"]
    assert peaks["full"] < 0.6 * peaks["off"]


def peak_bytes(profiler):
    """From the profiler's record of every allocation and release."""
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_on_resume_it_may_change(make_trainer):
    config = tiny_config(trainer={"max_duration": "12step"})
    whole = make_trainer(config, "whole")
    whole.fit()
    part = make_trainer(with_trainer(config, activation_checkpointing="full"), "part")
    part.stop = type("Stop", (), {"code": property(lambda self: int(part.state.step >= 6))})()
    part.fit()
    rest = make_trainer(config, "part", resume=True)
    assert rest.state.step == 6 and "activation_checkpointing" not in rest.state.resolved
    rest.fit()
    expected = whole.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in rest.module.state_dict().items())


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler whose cache is empty
@pytest.mark.parametrize("setting", ["full", "attention"])
def test_compiled_inside_the_checkpoint_nothing_breaks_the_graph(setting, make_trainer):
    import torch._dynamo
    from torch._dynamo.utils import counters

    weights = {}
    for kept in ("off", setting):
        torch._dynamo.reset()
        counters.clear()
        config = tiny_config(trainer={"compile": "true", "activation_checkpointing": kept, "micro_batch_size": 4})
        trainer = make_trainer(config, kept)
        trainer.module.train()
        for _ in range(2):
            trainer.train_step(trainer.plan_step())
        assert trainer.state.resolved["compile"] == "2 blocks" and not counters["graph_break"]
        weights[kept] = trainer.module.state_dict()
    assert all(torch.equal(value, weights["off"][name]) for name, value in weights[setting].items())
