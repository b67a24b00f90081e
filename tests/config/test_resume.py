"""resume= goes on with the run's own config; only what leaves the training alone may change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bigtrain.config.compose import compose, validate
from bigtrain.config.library import Request
from bigtrain.config.resume import refuse_other_training
from bigtrain.config.saved import document_text, to_config, to_document
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import BigtrainError, ConfigError
from tests.config.composing import composed


@pytest.fixture
def saved(tmp_path):
    """Saves the config of a command line as a run would, and resumes it with other words."""

    def start(*words):
        (tmp_path / "config.yaml").write_text(document_text(composed(*words).document))

        def resume(*more):
            request = Request("train", (f"resume={tmp_path}", *more))
            return validate(compose(request, lambda where, output_dir: tmp_path))

        return resume

    return start


def refusal(resume, *words) -> str:
    with pytest.raises(BigtrainError) as caught:
        resume(*words)
    return str(caught.value)


def test_without_words_nothing_differs(saved, tmp_path):
    words = ("model=cnn", "optimizer=sgd", "optimizer.momentum=0.5", "name=x")
    run = saved(*words)()
    assert run.config == composed(*words).config
    assert run.document == composed(*words).document
    assert run.choices["model"] == "cnn"
    assert (run.resumed.run_dir, run.resumed.differences) == (tmp_path, ())


def test_cadences_and_logging_may_change_and_are_told(saved):
    run = saved("model=cnn")(
        "trainer.log_every=3",
        "trainer.save_every=null",
        "tags=[a]",
        "tracking.tensorboard=false",
        "trainer.time_limit=1h",
        "trainer.micro_batch_size=8",
        "trainer.activation_checkpointing=2",
    )
    assert (run.config.trainer.log_every, run.config.trainer.save_every) == (3, None)
    assert "trainer.log_every: 10 → 3" in run.resumed.differences
    assert run.document["trainer"]["micro_batch_size"] == 8, "a number, as in earlier configs"
    assert len(run.resumed.differences) == 7


def test_what_is_typed_again_unchanged_is_fine(saved):
    run = saved("model=cnn", "optimizer.learning_rate=0.2")("model=cnn", "optimizer.learning_rate=0.2", "data=glyphs")
    assert run.resumed.differences == ()


def test_what_changes_the_training_may_not(saved):
    text = refusal(saved("model=cnn"), "optimizer.learning_rate=0.5", "seed=3", "trainer.log_every=3")
    assert "optimizer.learning_rate was 0.003 and can't become 0.5" in text
    assert "seed was 0 and can't become 3" in text
    assert text.count("error[") == 2


def test_another_choice_may_not(saved):
    assert "model is cnn in the run that is resumed" in refusal(saved("model=cnn"), "model=transformer")


def test_length_may_change_where_the_schedule_does_not_depend_on_it(saved):
    run = saved("scheduler=constant")("trainer.max_duration=2000step")
    assert run.resumed.differences == ("trainer.max_duration: '1000step' → '2000step'",)
    assert run.resumed.other_length
    assert run.resumed.document["trainer"]["max_duration"] == "2000step"


@pytest.mark.parametrize(("schedule", "does"), [("cosine", "rises to its peak again"), ("wsd", "before the decay")])
def test_of_other_schedules_a_word_is_needed_each_time(saved, schedule, does):
    text = refusal(saved(f"scheduler={schedule}"), "trainer.max_duration=2000step")
    assert "laid out over the whole length" in text and "add scheduler.extend=true" in text and does in text
    words = ("trainer.max_duration=2000step", "scheduler.extend=true")
    run = saved(f"scheduler={schedule}")(*words)
    assert run.resumed.document["scheduler"]["extend"] is True


def test_a_word_given_again_after_a_kill_is_fine_but_does_not_hold_for_another_length(saved, tmp_path):
    resume, words = saved(), ("trainer.max_duration=2000step", "scheduler.extend=true")
    (tmp_path / "config.yaml").write_text(document_text(resume(*words).resumed.document))
    assert resume(*words).resumed.differences == ()
    assert "add scheduler.extend=true" in refusal(resume, "trainer.max_duration=3000step")
    assert "the length stays the same" in refusal(saved(), "scheduler.extend=true")


def test_a_new_run_is_not_extended():
    with pytest.raises(BigtrainError, match="resume=outputs"):
        composed("scheduler.extend=true")


def test_patience_and_cadences_are_kept_but_not_what_belongs_to_a_session(saved):
    run = saved()("trainer.early_stopping.patience=3", "trainer.eval_every=10%", "trainer.time_limit=1h")
    kept = run.resumed.document["trainer"]
    assert (kept["early_stopping"]["patience"], kept["eval_every"], kept["time_limit"]) == (3, "10%", None)
    assert run.config.trainer.time_limit == "1h"


def test_a_config_saved_before_a_setting_was_added_still_loads(saved, tmp_path):
    resume = saved()
    text = (tmp_path / "config.yaml").read_text()
    assert "  extend: false\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("  extend: false\n", ""))
    assert resume().resumed.differences == ()
    assert resume("trainer.max_duration=2000step", "scheduler.extend=true").resumed.other_length


def test_typos_are_measured_against_the_saved_choices(saved):
    resume = saved("model=cnn")
    assert "did you mean model.kernel_size=3 ?" in refusal(resume, "model.kernel_siz=3")
    assert "model.num_heads is not a setting" in refusal(resume, "model.num_heads=3")


def test_values_are_checked_again(saved):
    assert "it must be at least 1" in refusal(saved(), "trainer.log_every=0")


def test_init_from_and_resume_exclude_each_other(saved):
    assert "init_from starts a new run" in refusal(saved(), "init_from=x")


def test_a_damaged_config_is_refused(saved, tmp_path):
    resume = saved()
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert "is not a saved config of version" in refusal(resume)


def test_a_setting_that_came_since_is_no_difference(saved, tmp_path):
    resume = saved("model=cnn", "data=image_folder", "data.stratify=false")
    path, line = tmp_path / "config.yaml", "  stratify: false\n"
    assert line in path.read_text()
    before = read_document(path)
    del before["data"]["stratify"]
    path.write_text(path.read_text().replace(line, ""))
    run = resume()
    assert run.resumed.differences == () and run.config.data.stratify is False
    refuse_other_training(before, run.document)
    assert "data.stratify was false" in refusal(resume, "data.stratify=true")


def test_auto_starts_a_run_and_then_goes_on_with_it(tmp_path, monkeypatch):
    """The same words, -cn and init_from= included, whether a run of this name is there or not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text("defaults: [train, _self_]\ntrainer:\n  log_every: 7\n")
    words = ("resume=auto", "model=cnn", "optimizer=sgd", "name=job-7", "output_dir=runs", "+extra.note=x")
    request = Request("train", (*words, "init_from=old", "trainer.time_limit=1h"), "own", "mine")
    asked = []

    def found(run):
        return lambda where, folder: asked.append((where, folder)) or run

    new = compose(request, found(None))
    assert asked == [("auto", Path("runs/job-7"))]
    assert new.resumed is None and new.tree.config.init_from == "old" and new.tree.config.resume is None
    (tmp_path / "config.yaml").write_text(document_text(to_document(new.tree, to_config(new.tree), new.choices)))
    again = validate(compose(request, found(tmp_path)))
    assert (again.resumed.run_dir, again.resumed.differences) == (tmp_path, ())
    assert again.config.trainer.log_every == 7 and again.config.init_from == "old", "from the run's own config"
    assert again.request.flags[:1] != ("-cn",) and "resume=auto" not in again.request.overrides
    with pytest.raises(ConfigError, match=r"model\.kernel_size was 3"):
        compose(dataclasses.replace(request, overrides=(*words, "model.kernel_size=5")), found(tmp_path))
