"""How many ranks a process starts, and what a launcher leaves it to say."""

import pytest

from bigtrain.config.run import TrainerConfig
from bigtrain.distributed.world import ranks_to_start
from bigtrain.errors import ConfigError
from tests.distributed.test_environment import TORCHRUN


def test_restarts_are_the_launchers_that_started_the_ranks(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    settings = TrainerConfig(gpus="0", max_restarts=2)
    assert ranks_to_start(settings, launched=True) == 1, "bigtrain's own launcher hands its words on to the ranks"
    with pytest.raises(ConfigError, match=r"trainer\.max_restarts is 2, but another launcher (.|\n)*torchrun --max-"):
        ranks_to_start(settings)
    assert ranks_to_start(TrainerConfig(gpus="0")) == 1
