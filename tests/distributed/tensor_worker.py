"""Trainings in float64, a rank of test_tensor_parallel.py: `tensor_worker.py FOLDER RANKS_PER_GROUP STEPS CASES`; or
alone.
"""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from sharded_worker import spoil
from tiny_runs import make_trainer, runs

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.shards import local, replicas
from bigtrain.distributed.world import join_world
from bigtrain.errors import NumericsError
from bigtrain.models.config import Activation, Norm
from bigtrain.optim.config import AdamConfig, AdamWConfig, LionConfig, SGDConfig

# Case → (a run, settings of the model beside those of the run, the optimizer).
# The gradient of a key's bias is zero but for rounding: divided by Adam's usual epsilon it would be 1e8 times as large.
ADAMW = AdamWConfig(learning_rate=1e-2, epsilon=1e-6)
TEXT = "transformer-language_modeling-text"
GROUPED = {"num_kv_heads": 2, "activation": Activation.swiglu, "feedforward_size": 20, "qk_norm": True}
CASES = {
    "llama": (TEXT, GROUPED, ADAMW),
    "gpt2": (TEXT, {"bias": True, "norm": Norm.layernorm, "tie_embeddings": True}, ADAMW),
    "bert": ("bert-masked_lm-text-next", {}, ADAMW),
    "seq2seq": ("seq2seq-seq2seq-pairs", {}, ADAMW),
    "classifier": ("transformer-classification-sentences", GROUPED, AdamConfig(learning_rate=1e-2, epsilon=1e-6)),
    "lion": (TEXT, GROUPED | {"bias": True}, LionConfig(learning_rate=1e-3)),
    "dropout": (TEXT, GROUPED | {"dropout": 0.3, "stochastic_depth": 0.2}, ADAMW),
    "nonfinite": (TEXT, GROUPED, ADAMW),
    "sgd": (TEXT, GROUPED, SGDConfig(learning_rate=0.05, freeze=["backbone.blocks.0"])),
}


def train_all(folder, world, steps, names):
    """Every case in a folder of its name, from its newest checkpoint to so many steps."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for name in names:
            train(folder / name, world, steps, name)
    finally:
        torch.set_default_dtype(default)


def train(folder, world, steps, name, **settings):
    """See `train_all`. By clipped gradients of two or more micro-batches, with a moving average."""
    run, of_model, optimizer = CASES[name]
    model, task, spec = runs()[run]
    run = replace(model, **of_model), task, replace(spec, sizes={"train": 20, "val": 7})
    settings = {"batch_size": 8, "micro_batch_size": 2, "clip_norm": 0.5, "ema_decay": 0.9} | settings
    settings |= {"strategy": "fsdp", "tensor_parallel": world.tensor_parallel}
    trainer = make_trainer(run, folder, world, optimizer, resume=True, **settings)
    trainer.length = replace(trainer.length, steps=steps)
    if name == "nonfinite":
        spoil(trainer, at_step=3)
    with contextlib.suppress(NumericsError) if name == "nonfinite" else contextlib.nullcontext():
        trainer.fit()
    assert trainer.state.step == (3 if name == "nonfinite" else steps)
    require_same_copies(trainer.module, world)
    if world.is_main:
        (folder / "rows.json").write_text(json.dumps(trainer.rows))


def require_same_copies(module, world):
    """What is not split over the ranks of a group is the same on all of them, to the bit."""
    if world.tensor_parallel > 1:
        kept = [local(parameter) for parameter in module.parameters() if replicas(parameter) > 1]
        groups = world.gather([float(value.sum()) for value in kept]).reshape(-1, world.tensor_parallel, len(kept))
        assert kept
        assert (groups == groups[:, :1]).all()


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0", tensor_parallel=int(sys.argv[2]))) as its_world:
        train_all(Path(sys.argv[1]), its_world, int(sys.argv[3]), sys.argv[4].split(","))
