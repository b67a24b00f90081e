"""A compiled run is the eager one to rounding, dropout included, and goes on to the same bytes after a kill."""

import pytest
import torch

from .conftest import tiny_config

# Two micro-batches with dropout: other masks would change the loss in the second digit.
CONFIG = {"max_duration": "8step", "save_every": "4step", "eval_every": "8step", "log_every": 1, "micro_batch_size": 4}


def losses(trainer):
    """Of each step."""
    return [row["train/loss"] for row in trainer.recorder.rows if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler whose cache is empty
def test_a_compiled_run_has_the_dropout_of_an_eager_one_and_resumes_to_the_same_bytes(make_trainer):
    eager = make_trainer(tiny_config(trainer=CONFIG), "eager")
    eager.fit()
    config = tiny_config(trainer=CONFIG | {"compile": "true"})
    whole = make_trainer(config, "compiled")
    assert whole.state.resolved["compile"] == "2 blocks"
    whole.fit()
    assert losses(whole) == pytest.approx(losses(eager), rel=1e-5)

    cut = make_trainer(config, "cut")
    stop_after = 5

    def step(number):
        if number == stop_after:
            raise KeyboardInterrupt

    cut.tracker.step = step
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = make_trainer(config, "cut", resume=True)
    assert resumed.state.step == 4 and resumed.state.resolved["compile"] == "2 blocks"
    resumed.fit()
    assert losses(resumed) == losses(whole)[4:]
    expected = whole.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.module.state_dict().items())
