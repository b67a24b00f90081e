"""Which strategy is chosen, and what is refused."""

import pytest
import torch

from bigtrain.distributed import strategy
from bigtrain.distributed.strategy import Strategy, choose_strategy, gathered, no_sync, replicate, reshard
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def never():
    raise AssertionError("sizes decide nothing here")


def test_one_rank_needs_none():
    for setting in ("auto", "ddp", "fsdp", "hsdp"):
        assert choose_strategy(setting, World(0, 1, CPU), never).name == "single"


def test_what_is_set_is_taken():
    for setting in ("ddp", "fsdp"):
        assert choose_strategy(setting, World(0, 4, GPU), never) == Strategy(setting, "as set")
    assert choose_strategy("hsdp", World(0, 4, GPU, local_size=2), never).shards


def test_auto_is_a_rule_of_sizes(monkeypatch):
    assert choose_strategy("auto", World(0, 4, CPU, local_size=4), never).name == "ddp"
    monkeypatch.setattr(strategy, "memory_total_bytes", lambda device: 80e9)
    assert choose_strategy("auto", World(0, 4, GPU), lambda: 40_000_000_000).name == "ddp"
    chosen = choose_strategy("auto", World(0, 4, GPU), lambda: 41_000_000_000)
    assert (chosen.name, chosen.shards) == ("fsdp", True)
    assert "41.0 GB" in chosen.reason and "80 GB" in chosen.reason


@pytest.mark.parametrize(("size", "local"), [(4, 4), (6, 4)])
def test_hsdp_needs_equal_machines(size, local):
    with pytest.raises(ConfigError) as caught:
        choose_strategy("hsdp", World(0, size, GPU, local_size=local), never)
    assert "trainer.strategy=fsdp" in str(caught.value)


def test_a_lone_module_is_left_alone():
    module = torch.nn.Linear(2, 2)
    assert replicate(module, World(0, 1, CPU), Strategy("single")) is module
    with gathered(module), no_sync(module, when=True):
        reshard(module)
