"""What parts of tensors must do, checked as one of two ranks of test_parts.py: `parts_worker.py FOLDER`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import make_trainer, runs

from bigtrain.config.run import Precision, TrainerConfig
from bigtrain.distributed.row_exchange import RowExchange
from bigtrain.distributed.shards import copy_part, global_norm, is_sharded, local, parts_of
from bigtrain.distributed.strategy import gathered
from bigtrain.distributed.world import World, join_world
from bigtrain.optim.config import AdamWConfig
from bigtrain.optim.torch_optimizer import TorchOptimizer
from bigtrain.training.moving_average import MovingAverage

RUN = "transformer-language_modeling-text"


def trainer_of(folder, world, name=RUN, optimizer=None, **settings):
    settings = {"strategy": "fsdp", "batch_size": 8, "micro_batch_size": 1, **settings}
    model, task, spec = runs()[name]
    run = model, task, replace(spec, sizes={"train": 20, "val": 7})
    return make_trainer(run, folder, world, optimizer or AdamWConfig(learning_rate=1e-2), **settings)


def check_first_weights(folder, world):
    """The parts that ranks draw are those of one process, to the bit, and so are tables that are in no checkpoint."""
    for name in (RUN, "lstm-language_modeling-text", "resnet-classification-images"):
        split = trainer_of(folder / name, world, name).module.network
        alone = trainer_of(folder / f"{name}-whole", World(0, 1, world.device), name).module.network
        expected = dict(alone.named_parameters()) | dict(alone.named_buffers())
        for key, buffer in split.named_buffers():
            assert torch.equal(buffer, expected[key]), key
        for key, parameter in split.named_parameters():
            assert is_sharded(parameter)
            assert torch.equal(parameter.full_tensor(), expected[key]), key


def check_parts(folder, world):
    """Places, norm, exchange and swapped averages of unevenly split tensors."""
    trainer = trainer_of(folder / "parts", world)
    parameters = list(trainer.module.network.parameters())
    wholes = [parameter.full_tensor() for parameter in parameters]
    for parameter, full in zip(parameters, wholes, strict=True):
        (part,) = parts_of(parameter, world.rank)
        begin = part.offsets[0]
        assert torch.equal(full[begin : begin + len(local(parameter))], local(parameter))
    expected = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(wholes)))
    torch.testing.assert_close(global_norm(parameters), expected)
    matrices = [index for index, parameter in enumerate(parameters) if parameter.ndim == 2][:5]
    parts = [local(parameters[index]).bfloat16() for index in matrices]
    exchange = RowExchange([parameters[index] for index in matrices], torch.bfloat16)  # rank 0 owns three of five
    owned = exchange.gather(parts)
    for tensor, index in zip(owned, matrices[world.rank :: 2], strict=True):
        assert torch.equal(tensor, wholes[index].bfloat16())
    for tensor, part in zip(exchange.scatter(owned), parts, strict=True):
        assert torch.equal(tensor, part)
    average = MovingAverage(dict(trainer.module.network.named_parameters()), 0.9)
    for tensor in average.tensors.values():
        local(tensor).zero_()
    with average.in_place():
        with gathered(trainer.module):
            assert not any(float(value.abs().max()) for value in trainer.module.network.parameters())
        assert not any(float(local(value).abs().sum()) for value in trainer.module.network.parameters())
    assert all(torch.equal(parameter.full_tensor(), full) for parameter, full in zip(parameters, wholes, strict=True))
    copy_part(parameters[0], torch.ones_like(wholes[0]))
    assert torch.equal(parameters[0].full_tensor(), torch.ones_like(wholes[0]))


def check_low_precision(folder, world):
    """bf16, fp16 and compiled blocks end near fp32; the loss scale is the same on all ranks, also after an overflow."""
    for name in (
        RUN,
        "bert-masked_lm-text",
        "seq2seq-seq2seq-pairs",
        "lstm-language_modeling-text",
        "resnet-classification-images",
    ):
        losses = {}
        for precision in (Precision.fp32, Precision.bf16):
            trainer = trainer_of(folder / name / precision.value, world, name, precision=precision)
            trainer.fit()
            losses[precision] = [row["val/loss"] for row in trainer.rows if "val/loss" in row]
        if world.is_main:
            for exact, low in zip(*losses.values(), strict=True):
                assert abs(low - exact) < 0.05 * exact, (name, exact, low)
    trainer = trainer_of(folder / "fp16", world, precision=Precision.fp16)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.fit()
    told = world.gather([trainer.scaler.get_scale(), float(trainer.updates)])
    assert (told == told[0]).all()
    assert trainer.updates < 6, "no step overflowed"


def check_torch_optimizer(folder, world):
    """A class of torch.optim sees sharded tensors, and ends where it does under DDP."""
    ends = []
    for strategy in ("ddp", "fsdp"):
        trainer = trainer_of(folder / strategy, world, strategy=strategy)
        trainer.optimizer = TorchOptimizer(
            torch.optim.NAdam, AdamWConfig(weight_decay=0.1), trainer.module.network, eps=1e-6
        )
        trainer.snapshot.optimizer = trainer.optimizer
        trainer.base_lrs = [1e-2] * len(trainer.optimizer.param_groups)
        trainer.fit()
        tensors = trainer.snapshot._tensors()["model.safetensors"]
        ends.append({name: value.full_tensor() if is_sharded(value) else value for name, value in tensors.items()})
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    with join_world(TrainerConfig(gpus="0")) as its_world:
        for check in (check_first_weights, check_parts, check_low_precision, check_torch_optimizer):
            check(Path(sys.argv[1]) / check.__name__, its_world)
