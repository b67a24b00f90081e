"""What ranks must have in common; each rank's world answers as rank 0 would."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bigtrain.commands import agreement
from bigtrain.commands.agreement import require_same_settings, require_shared_folder
from bigtrain.distributed.world import World
from bigtrain.errors import BigtrainError


@dataclass(frozen=True)
class SecondRank(World):
    said: tuple[str, ...] = ()

    def broadcast(self, text):
        return next((said for said in self.said if said.split()[0] == text.split()[0]), text)

    def gather(self, values):
        return np.array([[1.0], values])


def second_rank(*said):
    return SecondRank(1, 2, torch.device("cpu"), said=said)


def test_another_version_is_said():
    composed = SimpleNamespace(resumed=None, document={})
    require_same_settings(composed, second_rank())
    with pytest.raises(BigtrainError, match=r"RANK-VERSIONS.*rank 0 bigtrain 0\.0\.1 and torch 2\.0"):
        require_same_settings(composed, second_rank("bigtrain 0.0.1 and torch 2.0"))


def test_a_folder_that_is_seen_late_is_waited_for(tmp_path, monkeypatch):
    late = tmp_path / "run"
    monkeypatch.setattr(agreement.time, "sleep", lambda _: late.mkdir())
    require_shared_folder(late, second_rank())
    monkeypatch.setattr(agreement, "SECONDS_FOR_FILES", 0.0)
    with pytest.raises(BigtrainError, match="rank 1 does not"):
        require_shared_folder(tmp_path / "elsewhere", second_rank())
