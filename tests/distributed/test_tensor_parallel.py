"""Ranks that compute each block together end where one process does: real ranks over gloo, in float64."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_networks import tiny_network
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from bigtrain.config.run import Precision, TrainerConfig
from bigtrain.distributed.shards import copy_part, local, parts_of, replicas
from bigtrain.distributed.strategy import choose_strategy
from bigtrain.distributed.world import World, join_world
from bigtrain.errors import ConfigError
from bigtrain.models.config import TransformerConfig
from bigtrain.nn.init import draw_weights
from bigtrain.optim.config import AdafactorConfig, AdamWConfig, MuonConfig
from bigtrain.registry import OPTIMIZERS
from bigtrain.storage.boxes import tiling_problem
from bigtrain.training.sharded_module import require_elementwise

from .ranks import run_ranks
from .tensor_worker import CASES, train, train_all
from .test_sharded_training import difference

WORKER = Path(__file__).with_name("tensor_worker.py")
ALONE = World(0, 1, torch.device("cpu"))
STEPS = 6


def test_two_ranks_that_share_every_block_end_where_one_process_does(tmp_path):
    train_all(tmp_path / "one", ALONE, STEPS, ["llama"])
    run_ranks(WORKER, 2, tmp_path / "two", 2, STEPS, "llama")
    assert max(difference(tmp_path / "one/llama", tmp_path / "two/llama")) <= 1e-12


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ranks", "of_group"), [(2, 2), (4, 2)])
def test_every_family_ends_where_one_process_does(tmp_path, ranks, of_group):
    train_all(tmp_path / "one", ALONE, STEPS, CASES)
    run_ranks(WORKER, ranks, tmp_path / "more", of_group, STEPS, ",".join(CASES), timeout=1200)
    found = {name: difference(tmp_path / "one" / name, tmp_path / "more" / name) for name in CASES if name != "dropout"}
    print(*found.items(), sep="\n")
    assert max(map(max, found.values())) <= 1e-12


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_from_four_ranks_to_one_and_to_two_that_share_nothing_and_back(tmp_path):
    names = ["llama", "seq2seq"]
    train_all(tmp_path / "one", ALONE, STEPS, names)
    run_ranks(WORKER, 4, tmp_path / "more", 2, 2, ",".join(names))
    train_all(tmp_path / "more", ALONE, 3, names)
    run_ranks(WORKER, 2, tmp_path / "more", 2, 4, ",".join(names))
    run_ranks(WORKER, 2, tmp_path / "more", 1, STEPS, ",".join(names))
    for name in names:
        _, weights, state = difference_of_tensors(tmp_path / "one" / name, tmp_path / "more" / name)
        assert max(weights, state) <= 1e-12


def difference_of_tensors(folder, other):
    """`difference`, of runs whose rows are not the same, as one was stopped."""
    (other / "rows.json").write_text((folder / "rows.json").read_text())
    return difference(folder, other)


@pytest.fixture
def ranks_of_four():
    """Makes this process rank r of four that send nothing; returns their mesh of 2 x 2."""

    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    def become(rank):
        _clear_sharding_prop_cache()  # it keeps the mesh of the rank that filled it
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
        return init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))

    yield become
    if dist.is_initialized():
        dist.destroy_process_group()


def test_parts_of_all_ranks_are_the_parameters_of_one_process(ranks_of_four):
    """Where they lie, and as they are drawn: of grouped queries, keys and values, gates, columns, biases."""
    from bigtrain.distributed.strategy import materialise, shard
    from bigtrain.nn.init import forget_declared
    from bigtrain.nn.tensor_parallel import split_blocks

    whole = made_block()
    draw_weights(whole, 3)
    expected, boxes = dict(whole.named_parameters()), {}
    for rank in range(4):
        mesh, block = ranks_of_four(rank), made_block()
        forget_declared(block)
        split_blocks([block], mesh["tensor"])
        shard(block, [], mesh["shard"], None)
        materialise(block, torch.device("cpu"))
        draw_weights(block, 3)
        assert dict(block.named_parameters()).keys() == expected.keys()
        for name, parameter in block.named_parameters():
            assert replicas(parameter) == (2 if "norm" in name or name.endswith("projection.bias") else 1)
            for part in parts_of(parameter, rank):
                box = tuple(slice(b, b + size) for b, size in zip(part.offsets, part.values.shape, strict=True))
                assert torch.equal(part.values, expected[name][box]), name
                boxes.setdefault(name, []).extend([part.box] * part.first_holder)
            drawn = local(parameter).clone()
            local(parameter).zero_()
            copy_part(parameter, expected[name].detach())
            assert torch.equal(local(parameter), drawn)
        dist.destroy_process_group()
    assert {name: tiling_problem(expected[name].shape, of_one) for name, of_one in boxes.items()} == dict.fromkeys(
        expected, ""
    )


def made_block():
    """A block whose parts of a rank are several runs of rows, and don't divide by two again."""
    from bigtrain.nn.attention import Attention
    from bigtrain.nn.block import Block
    from bigtrain.nn.feedforward import FeedForward

    common = {"bias": True, "dropout": 0.0, "std": 0.5, "projection_std": 0.3}
    parts = {
        "attention": Attention(12, 4, 2, **common),
        "attention_norm": torch.nn.LayerNorm(12),
        "cross_attention": Attention(12, 4, cross=True, **common),
        "cross_attention_norm": torch.nn.LayerNorm(12),
        "feedforward": FeedForward(12, 10, "swiglu", **common),
        "feedforward_norm": torch.nn.LayerNorm(12),
    }
    return Block(pre_norm=True, **parts)


@pytest.mark.parametrize("of_group", [2, 3])
def test_more_ranks_to_a_group_than_there_are(of_group):
    said = f"trainer.tensor_parallel is {of_group}, but there is 1 rank"
    with pytest.raises(ConfigError, match=said), join_world(TrainerConfig(gpus="0", tensor_parallel=of_group)):
        pass


def test_another_strategy_is_refused():
    world = World(0, 4, torch.device("cpu"), tensor_parallel=2)
    assert choose_strategy("auto", world, lambda: 0).shards
    for setting in ("ddp", "hsdp"):
        with pytest.raises(ConfigError, match="trainer.strategy=fsdp"):
            choose_strategy(setting, world, lambda: 0)


def test_what_does_not_divide_and_what_has_no_blocks_is_refused(ranks_of_four):
    from bigtrain.nn.tensor_parallel import split_blocks

    block = made_block()
    block.attention.num_kv_heads = 3
    mesh = ranks_of_four(0)["tensor"]
    with pytest.raises(ConfigError, match="does not divide model.num_kv_heads, 3"):
        split_blocks([block], mesh)
    with pytest.raises(ConfigError, match="not made of transformer blocks"):
        split_blocks([torch.nn.LSTM(4, 4)], mesh)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compile": "true"}, "trainer.compile is true"),
        ({"precision": Precision.fp8}, "trainer.precision is fp8"),
        ({"precision": Precision.fp16}, "trainer.precision is fp16"),
    ],
)
def test_settings_that_do_not_know_it_are_refused(tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(tmp_path, replace(ALONE, size=2, tensor_parallel=2), STEPS, "llama", **settings)


@pytest.mark.parametrize(
    ("config", "stands"), [(AdamWConfig(), True), (MuonConfig(), False), (AdafactorConfig(), False)]
)
def test_optimizers_of_whole_matrices_are_refused(config, stands):
    _, network = tiny_network(TransformerConfig(hidden_size=8, num_heads=2, max_length=16))
    optimizer = OPTIMIZERS.entry_of(config).load()(config, network)
    require_elementwise(optimizer, ALONE)
    with contextlib.nullcontext() if stands else pytest.raises(ConfigError, match="needs whole matrices"):
        require_elementwise(optimizer, replace(ALONE, size=2, tensor_parallel=2))
