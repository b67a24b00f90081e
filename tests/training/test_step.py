"""A recorded step: nothing in it waits for the device, and it trains as the eager one does.

On a CPU a recorded step runs, each time anew, what a GPU would have recorded, with tensors in place of the host's
numbers.
"""

import pytest
import torch
from tiny_runs import make_trainer as make_tiny_run
from tiny_runs import runs
from torch.utils._python_dispatch import TorchDispatchMode

from bigtrain.config.schema import register_parts
from bigtrain.distributed.world import World
from bigtrain.optim.config import AdamWConfig
from bigtrain.registry import OPTIMIZERS
from bigtrain.training.recording import record

from .conftest import tiny_config

register_parts()
RUNS = {name: run for name, run in runs().items() if not name.startswith("ngram")}  # which counts on the host
ALONE = World(0, 1, torch.device("cpu"))


# Of a number, of a shape that depends on values, of a comparison: on a GPU the host waits for each.
READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "repeat_interleave", "bincount"}


class ReadsBack(TorchDispatchMode):
    """Notes what is read from tensors: on a GPU the host would wait there, and a recording would fail."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or masked or name.startswith("unique"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def reads_back(trainer):
    """What a recorded step's part on the device reads back, and the next step, eagerly, from its data to its end."""
    inputs = trainer.inputs(trainer.plan_step())
    assert trainer.recorded.fits(inputs)
    with ReadsBack() as mode:
        trainer.recorded(inputs)
    trainer.recorded = None
    plan = trainer.plan_step()  # counts targets, on the host
    with mode:
        trainer.train_step(plan)  # `check_finite` waits on a CPU only: tests/training/test_nonfinite.py
        trainer.finish_step()
    assert not trainer.state.cadences_done
    return mode.found


@pytest.mark.parametrize("name", RUNS)
def test_every_pair_records_a_step_that_reads_nothing_back(name, tmp_path):
    settings = {"micro_batch_size": 2, "clip_norm": 1.0, "ema_decay": 0.9}
    trainer = make_tiny_run(RUNS[name], tmp_path, ALONE, AdamWConfig(learning_rate=2**-6), **settings)
    before = {key: value.clone() for key, value in trainer.module.state_dict().items()}
    trainer.module.train()
    record(trainer, trainer.plan_step())
    changed = [key for key, value in trainer.module.state_dict().items() if not torch.equal(value, before[key])]
    assert not changed, "recording changes nothing"
    assert reads_back(trainer) == []


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_updates_without_reading_back(name, make_trainer):
    trainer = make_trainer(tiny_config(optimizer=OPTIMIZERS[name].config_class(), trainer={"ema_decay": 0.9}))
    trainer.module.train()
    record(trainer, trainer.plan_step())
    assert reads_back(trainer) == []


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("lstm")])
def test_every_pair_trains_recorded_as_it_does_eagerly(name, tmp_path):
    """A rate that fp32 holds exactly, and no dropout, which is seeded otherwise: the same bytes."""
    weights = []
    for folder in ("eager", "recorded"):
        trainer = make_tiny_run(RUNS[name], tmp_path / folder, ALONE, AdamWConfig(learning_rate=2**-6))
        trainer.schedule = lambda step: 1.0
        trainer.module.train()
        if folder == "recorded":
            record(trainer, trainer.plan_step())
        for _ in range(3):
            trainer.train_step(trainer.plan_step())
        weights.append(trainer.module.state_dict())
    different = [key for key, value in weights[0].items() if not torch.equal(value, weights[1][key])]
    assert not different


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RUNS)
def test_on_a_gpu_no_step_waits_for_the_device(name, tmp_path):
    world = World(0, 1, torch.device("cuda", 0))
    trainer = make_tiny_run(RUNS[name], tmp_path, world, AdamWConfig(), micro_batch_size=2, clip_norm=1.0, log_every=99)
    trainer.module.train()
    try:
        for mode in (0, 0, 2):  # libraries initialise themselves in the first steps; 2 raises
            torch.cuda.set_sync_debug_mode(mode)
            trainer.train_step(trainer.plan_step())
            trainer.check_finite()
            trainer.finish_step()
    finally:
        torch.cuda.set_sync_debug_mode(0)
        trainer.prefetch.close()
