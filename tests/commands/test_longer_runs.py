"""A finished run trains on when it is made longer; which run `latest` means; runs that never began."""

import pytest

from .conftest import TINY

QUIET = [
    *TINY,
    "tracking.tensorboard=false",
    "tracking.samples=false",
    "model.dropout=0.1",
    "trainer.max_duration=20step",
]


def run_named(shell, name):
    return next(run for run in shell.runs() if run.parent.name == name)


def final_bytes(run, step=40):
    folder = run / f"checkpoints/step-{step:08d}"
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def test_a_longer_run_is_trained_on_and_its_config_says_so(shell):
    words = [*QUIET, "scheduler=constant", "trainer.log_every=5"]
    shell.run(*words, "name=whole", "trainer.max_duration=40step")
    shell.run(*words, "name=extended")
    done = shell.run("resume=latest", "trainer.max_duration=40step")
    run = run_named(shell, "extended")
    assert f"resume=latest: {run.relative_to(shell.folder)}" in done.stderr
    assert "trainer.max_duration: '20step' → '40step'" in done.stdout
    assert "max_duration: 40step" in (run / "config.yaml").read_text()
    assert final_bytes(run) == final_bytes(run_named(shell, "whole"))
    assert [row["step"] for row in shell.rows(run) if "train/loss" in row] == list(range(5, 41, 5))
    assert (shell.status(run)["state"], shell.status(run)["step"]) == ("finished", 40)
    assert "nothing to do" in shell.run(f"resume={run}", "trainer.max_duration=40step").stdout
    assert "it has trained 40 steps" in shell.run(f"resume={run}", "trainer.max_duration=30step").stdout
    assert "max_duration: 40step" in (run / "config.yaml").read_text()


def test_wsd_goes_back_before_its_decay_and_ends_as_if_it_had_been_planned_longer(shell):
    words = [*QUIET, "scheduler=wsd", "trainer.save_every=5step"]
    shell.run(*words, "name=whole", "trainer.max_duration=40step")
    shell.run(*words, "name=extended")
    run = run_named(shell, "extended")
    longer = [f"resume={run}", "trainer.max_duration=40step"]
    assert "scheduler.extend=true" in shell.run(*longer, code=2).stderr
    assert "going back to step 15" in shell.run(*longer, "scheduler.extend=true").stdout
    assert final_bytes(run) == final_bytes(run_named(shell, "whole"))
    assert (run / "checkpoints/decayed-step-00000020/manifest.json").is_file()


def test_wsd_without_a_checkpoint_before_its_decay_is_a_sentence_and_changes_nothing(shell):
    shell.run(*QUIET, "scheduler=wsd", "trainer.save_every=17step")
    (run,) = shell.runs()
    before = (run / "config.yaml").read_text()
    done = shell.run(f"resume={run}", "trainer.max_duration=40step", "scheduler.extend=true", code=4)
    assert "has no checkpoint from before the decay" in done.stderr and "trainer.save_every" in done.stderr
    assert (run / "config.yaml").read_text() == before
    assert shell.status(run)["state"] == "finished"


def test_cosine_says_what_its_rate_does_and_a_run_stopped_early_wants_more_patience(shell):
    stop = ["trainer.eval_every=2step", "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=100"]
    shell.run(*QUIET, "scheduler=cosine", *stop)
    (run,) = shell.runs()
    assert shell.status(run)["step"] == 6
    longer = [f"resume={run}", "trainer.max_duration=40step", "scheduler.extend=true"]
    assert "trainer.early_stopping.patience=4, or null" in shell.run(*longer).stdout
    done = shell.run(*longer, "trainer.early_stopping.patience=null", "trainer.early_stopping.min_delta=0")
    assert "the learning rate goes from" in done.stdout
    assert shell.status(run)["step"] == 40
    assert "patience: null" in (run / "config.yaml").read_text()


def test_latest_is_the_newest_run_with_a_checkpoint(shell):
    shell.run(*QUIET, "name=good", "trainer.max_duration=2step")
    shell.run(*QUIET, "name=wrong", "trainer.early_stopping.metric=nonsense", code=2)
    assert [run.parent.name for run in shell.runs()] == ["good"]
    good = run_named(shell, "good").relative_to(shell.folder)
    killed = shell.folder / "outputs/killed/2099-01-01_00-00-00-abcd"  # before its first checkpoint
    killed.mkdir(parents=True)
    (killed / "config.yaml").write_text((shell.folder / good / "config.yaml").read_text())
    for words in (["resume=latest"], ["eval", "checkpoint=latest"], ["eval", "checkpoint=best"]):
        said = shell.run(*words).stderr
        assert f"{words[-1]}: {good} (a newer run, outputs/killed/" in said and "has no checkpoint" in said
    (shell.folder / good / "checkpoints").rename(shell.folder / "elsewhere")
    refused = shell.run("resume=latest", code=4).stderr
    assert "no run in outputs has a checkpoint yet" in refused
    assert "bigtrain resume=outputs/killed/2099-01-01_00-00-00-abcd" in refused
    assert (
        "no run under the output directory has a checkpoint yet"
        in shell.run("eval", "checkpoint=latest", code=4).stderr
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["scheduler.warmup=2epoch", "trainer.max_duration=3step"], 2, "scheduler.warmup is 2epoch, longer than"),
        (["data.train_tokens=100", "trainer.max_duration=2step"], 0, "takes the same ones more than once"),
        (["trainer.precision=fp16", "trainer.max_duration=2step"], 0, "trainer.precision=fp32"),
        (["trainer.save_every=9step", "trainer.max_duration=2step"], 0, "longer than the training (2step)"),
    ],
)
def test_what_hardly_works_as_meant_is_said_before_training(shell, words, code, said):
    done = shell.run(*QUIET, *words, code=code)
    assert said in done.stdout + done.stderr
    assert len(shell.runs()) == (code == 0)
