"""The time of a deep model from steps of shallow ones."""

import pytest

from bigtrain.config.compose import Request, compose, validate
from bigtrain.planning import timing
from bigtrain.planning.plan import make_plan

SMALL = ["model.hidden_size=16", "model.num_heads=2", "data.sequence_length=16", "trainer.batch_size=4"]


def planned(*words):
    config = validate(compose(Request("plan", [*SMALL, "plan.measure=true", *words]))).config
    return make_plan(config, config.plan)


def test_steps_of_two_and_three_blocks_give_that_of_six(monkeypatch):
    timed = []

    def seconds(trainer):
        timed.append(len(trainer.module.network.backbone.ordered_blocks()))
        assert trainer.loader.order.batch_size == 4
        return 0.5 + 0.1 * timed[-1]

    monkeypatch.setattr(timing, "_timed_step", seconds)
    plan = planned("model.num_layers=6", "trainer.activation_checkpointing=full")
    assert set(timed) == {2, 3}
    assert plan.cost.seconds == pytest.approx((0.5 + 0.1 * 6) * 4 / 3), (
        "and a forward pass more, for what is computed again"
    )


def test_a_shallow_model_is_timed_as_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    plan = planned("model.num_layers=1")
    assert 0 < plan.work.share_of_peak < 1
    assert list(tmp_path.iterdir()) == []
