"""The end of a run: the best weights on the splits that there are."""

import pytest

from bigtrain.commands import conclusion
from bigtrain.config.schema import register_parts
from bigtrain.training.snapshot import load_evaluated_weights

from ..training.conftest import make_trainer, tiny_config  # noqa: F401 a fixture

register_parts()


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("best_is_last", [True, False])
def test_the_best_weights_are_read_back_only_where_they_are_not_the_last(
    make_trainer,  # noqa: F811
    monkeypatch,
    decay,
    best_is_last,
):
    trainer = make_trainer(tiny_config(trainer={"ema_decay": decay, "max_duration": "12step", "eval_every": "6step"}))
    trainer.selection._is_better = lambda metric, than, by: best_is_last or than is None  # else the first is the best
    trainer.fit()
    read, real = [], conclusion.load_evaluated_weights
    monkeypatch.setattr(
        conclusion, "load_evaluated_weights", lambda network, found: (read.append(found.step), real(network, found))
    )
    columns = conclusion.evaluate_best(trainer)
    assert read == ([] if best_is_last else [6])
    assert {(column.weights, column.step) for column in columns} == {("best", 12 if best_is_last else 6)}
    load_evaluated_weights(trainer.module.network, conclusion.verify(trainer.checkpoints.best()))
    for column in columns:
        assert column.metrics == trainer.evaluator.evaluate(column.split, final=True).metrics, column.split
