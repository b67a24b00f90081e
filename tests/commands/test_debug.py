"""debug=overfit | limit | profile | nan, as a person types them."""

import json
import re

from .conftest import GLYPHS, TINY

SMALL = [word for word in TINY if not word.startswith(("trainer.max_duration", "trainer.batch_size"))]


def test_overfit_learns_eight_samples_by_heart(shell):
    shell.run(*GLYPHS, "debug=overfit", "trainer.gpus=0", "model.widths=[16]", "model.hidden_size=32")
    (run,) = shell.runs()
    assert run.parent.name == "debug-overfit"
    metrics = shell.status(run)["metrics"]
    assert metrics["val/accuracy"] == 1.0
    assert metrics["val/loss"] < 0.1
    assert not any(tag.startswith("test/") for tag in metrics), "what was memorised has no test split"


def test_limit_walks_through_everything_on_few_samples(shell):
    done = shell.run(*SMALL, "debug=limit", "trainer.limit_samples=20")
    (run,) = shell.runs()
    assert "train 20, val 20, test 20" in done.stdout
    assert [row["step"] for row in shell.rows(run) if "val/loss" in row] == [10, 20]
    spec = json.loads((run / "checkpoints/step-00000020/data_spec.json").read_text())
    assert spec["sizes"] == {"train": 20, "val": 20, "test": 20}


def test_profile_leaves_a_table_and_a_trace(shell):
    done = shell.run(*SMALL, "debug=profile")
    (run,) = shell.runs()
    assert "profile of steps 5 to 9" in done.stdout
    assert re.search(r"the optimizer takes \d+\.\d% of a step", " ".join(done.stdout.split()))
    assert "aten::" in (run / "profile/table.txt").read_text()
    assert json.loads((run / "profile/trace.json").read_text())["traceEvents"]


def test_a_run_that_ends_inside_the_profile_writes_what_there_is(shell):
    done = shell.run(*SMALL, "debug=profile", "trainer.max_duration=7step")
    assert "profile of steps 5 to 6" in done.stdout


def test_nan_names_the_place(shell):
    words = [*SMALL, "debug=nan", "optimizer=sgd", "optimizer.learning_rate=1e30", "trainer.clip_norm=null"]
    refused = shell.run(*words, code=6)
    (run,) = shell.runs()
    assert "error[LOSS-NONFINITE]" in refused.stderr
    assert "the output of network." in refused.stderr or "a gradient is not finite" in refused.stderr
    assert shell.status(run)["exit_code"] == 6
