"""The numbers of a run as JSON: exact, under the names that earlier versions wrote."""

import json

import pytest

from bigtrain.training.state import TrainState


def test_floats_come_back_exactly():
    state = TrainState(step=3, train_seconds=0.1 + 0.2, loss_sums={"loss.sum": 1 / 3}, lengths=[[4, None]])
    assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_on_disk_the_loss_sums_keep_the_name_that_old_checkpoints_have():
    document = TrainState(loss_sums={"loss.count": 8.0}).to_json()
    assert document["interval"] == {"loss.count": {"hex": "0x1.0000000000000p+3"}}
    assert "loss_sums" not in document


def test_an_unknown_number_is_refused():
    with pytest.raises(TypeError):
        TrainState.from_json(TrainState().to_json() | {"unknown": 1})
