"""trainer.micro_batch_size=auto: what fits is found, and a shortage in mid-run changes neither samples nor loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import make_trainer as make_tiny_run
from torch.profiler import ProfilerActivity, profile

from bigtrain.data.synthetic.config import StringPairsConfig
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.config import Seq2SeqConfig
from bigtrain.optim.config import AdamWConfig
from bigtrain.tasks.config import Seq2SeqTaskConfig
from bigtrain.tracking.memory import PeakMemory
from bigtrain.training import micro_batch
from bigtrain.training.machine import try_step

from .conftest import tiny_config
from .test_activation_checkpointing import FAMILIES, peak_bytes

ALONE = World(0, 1, torch.device("cpu"))
AUTO = {"micro_batch_size": "auto", "max_duration": "8step", "eval_every": "8step", "save_every": "4step"}
SHORT = "CUDA out of memory. Tried to allocate 2.50 GiB."


@pytest.mark.parametrize(("free", "size"), [(10**12, 8), (0, 1)])
def test_on_a_cpu_it_follows_from_the_free_memory(free, size, make_trainer, monkeypatch):
    monkeypatch.setattr(micro_batch, "free_memory_bytes", lambda device: free)
    trainer = make_trainer(tiny_config(trainer=AUTO))
    assert (trainer.loader.micro_batch_size, trainer.evaluator.batch_size) == (size, size)
    assert trainer.state.resolved["micro_batch_size"] == str(size)


def test_what_is_found_on_a_cpu_takes_no_more_than_is_free(make_trainer, monkeypatch):
    trainer = make_trainer(tiny_config(trainer={"batch_size": 64}))
    reserved = 3 * sum(parameter.nbytes for parameter in trainer.module.parameters())

    def peak(size):
        trainer.loader.micro_batch_size = size
        with PeakMemory(trainer.module) as memory:
            try_step(trainer.module, trainer.loader, trainer.precision, ALONE)
        return memory.peak

    for size in (4, 16):
        free = (peak(size) + reserved) / 0.8
        monkeypatch.setattr(micro_batch, "free_memory_bytes", lambda device, free=free: free)
        found = make_trainer(tiny_config(trainer={**AUTO, "batch_size": 64}), f"run{size}").loader.micro_batch_size
        assert size // 2 <= found <= size


def test_the_measured_peak_is_that_of_the_allocator(make_trainer):
    config = tiny_config()
    config = replace(config, model=replace(config.model, hidden_size=64), trainer=config.trainer)
    trainer = make_trainer(config)
    for _ in range(2):
        with PeakMemory(trainer.module) as memory:
            try_step(trainer.module, trainer.loader, trainer.precision, ALONE)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        try_step(trainer.module, trainer.loader, trainer.precision, ALONE)
    assert memory.peak == pytest.approx(peak_bytes(profiler), rel=0.05)


def test_on_a_gpu_it_is_the_first_that_has_room(make_trainer, monkeypatch):
    trainer, tried = make_trainer(tiny_config()), []

    def try_up_to_two(module, loader, precision, world):
        tried.append(loader.micro_batch_size)
        if loader.micro_batch_size > 2:
            raise torch.OutOfMemoryError(SHORT)

    monkeypatch.setattr(micro_batch, "try_step", try_up_to_two)
    parts = (trainer.module, trainer.loader, trainer.precision, ALONE)
    assert micro_batch._largest_by_trying(*parts, 8, 0) == 2
    assert tried == [8, 4, 2]


def test_ranks_take_the_smallest_that_any_finds(make_trainer, monkeypatch):
    class OfTwo(World):
        def gather(self, values):
            return np.array([values, [2.0]])

    trainer = make_trainer(tiny_config())
    monkeypatch.setattr(micro_batch, "_largest_by_measuring", lambda *_: 4)
    settings = replace(tiny_config().trainer, micro_batch_size="auto")
    world = OfTwo(0, 2, torch.device("cpu"))
    micro_batch.choose_micro_batch_size(
        trainer.module, settings, trainer.loader, trainer.precision, trainer.state, world, False
    )
    assert trainer.loader.micro_batch_size == 2


def short_of_memory(trainer, step, fits):
    """From a step on a pass over more samples than fit has no room; the second one of that step, where it has two."""
    passes = []

    def forward(module, inputs):
        samples = len(next(iter(inputs[0].values())))
        if module.training and trainer.state.step >= step:
            passes.append(samples)
            if samples > fits and len(passes) > 1:
                raise torch.OutOfMemoryError(SHORT)

    trainer.module.register_forward_pre_hook(forward)


def steps(trainer, count, at=lambda step: None):
    """Trains; returns the state at the end and what the loss meter has summed up."""
    trainer.module.train()
    for step in range(count):
        at(step)
        trainer.train_step(trainer.plan_step())
    return {key: value.clone() for key, value in trainer.module.state_dict().items()}, trainer.loss_meter.pooled()


@pytest.mark.parametrize("name", ["transformer", "lstm", "resnet", "cnn"])
def test_a_step_that_fails_is_done_again_from_its_start(name, tmp_path, monkeypatch):
    """As if the smaller size had been set before it: with dropout, batch norm and recurrent state, to the bit."""
    monkeypatch.setattr(micro_batch, "_largest_by_measuring", lambda *_: 2)
    run, optimizer = FAMILIES[name], AdamWConfig(learning_rate=2**-6)
    failing = make_tiny_run(run, tmp_path / "failing", ALONE, optimizer, micro_batch_size="auto")
    notes = []
    failing.tracker.note = lambda sentence, warning=False: notes.append(sentence)
    short_of_memory(failing, step=2, fits=1)
    state, sums = steps(failing, 5)
    assert notes == ["memory ran out in step 3: from here on micro-batches have 1 samples, not 2"]
    assert failing.state.resolved["micro_batch_size"] == "1" and failing.evaluator.batch_size == 1

    planned = make_tiny_run(run, tmp_path / "planned", ALONE, optimizer, micro_batch_size=2)
    expected, expected_sums = steps(
        planned, 5, lambda step: setattr(planned.loader, "micro_batch_size", 1 if step >= 2 else 2)
    )
    assert [key for key in state if not torch.equal(state[key], expected[key])] == []
    assert sums == expected_sums


def test_the_loss_is_that_of_a_run_that_had_room(make_trainer, monkeypatch):
    config = tiny_config(trainer=AUTO | {"log_every": 1})
    config = replace(config, model=replace(config.model, dropout=0.0))
    losses = {}
    for name in ("room", "short"):
        trainer = make_trainer(config, name)
        if name == "short":
            short_of_memory(trainer, step=3, fits=4)
        trainer.fit()
        losses[name] = [row["train/loss"] for row in trainer.recorder.rows if "train/loss" in row]
    assert losses["short"][:3] == losses["room"][:3] and losses["short"] != losses["room"]
    assert losses["short"] == pytest.approx(losses["room"], rel=1e-5)
    assert trainer.state.resolved["micro_batch_size"] == "4"
    resumed = make_trainer(config, "short", resume=True)
    assert resumed.loader.micro_batch_size == 4, "a resumed run reuses it"


def test_what_smaller_micro_batches_do_not_mend_is_raised(make_trainer):
    short = {"step": 0, "fits": 0}
    fixed = make_trainer(tiny_config(trainer={"micro_batch_size": 4}), "fixed")
    short_of_memory(fixed, **short)
    with pytest.raises(torch.OutOfMemoryError):
        steps(fixed, 1)
    auto = make_trainer(tiny_config(trainer=AUTO), "auto")
    with pytest.raises(ValueError, match="shape"):
        auto.fitting.run(lambda inputs: (_ for _ in ()).throw(ValueError("shape")), auto.inputs(auto.plan_step()))
    short_of_memory(auto, **short)
    with pytest.raises(torch.OutOfMemoryError):  # down to a single sample, which has no room either
        steps(auto, 2)
    assert auto.state.resolved["micro_batch_size"] == "1"
    ranks = replace(auto.fitting, world=replace(ALONE, size=2))
    auto.loader.micro_batch_size = 4
    with pytest.raises(torch.OutOfMemoryError):  # the others wait for its gradients
        ranks.run(lambda inputs: auto.replica(inputs.micro_batches[0]), auto.inputs(auto.plan_step()))


def test_samples_of_different_length_are_refused(make_trainer):
    config = tiny_config(
        model=Seq2SeqConfig(hidden_size=16, num_layers=1, num_heads=2, max_length=32),
        data=StringPairsConfig(),
        task=Seq2SeqTaskConfig(),
        trainer=AUTO,
    )
    with pytest.raises(ConfigError, match="differ in length"):
        make_trainer(config)
