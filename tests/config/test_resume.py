"""resume= goes on with the run's own config; only what leaves the training alone may change."""

from __future__ import annotations

import pytest

from bigtrain.config.compose import compose, validate
from bigtrain.config.library import Request
from bigtrain.config.resume import refuse_other_training
from bigtrain.config.saved import document_text
from bigtrain.config.yaml_files import read_document
from bigtrain.errors import BigtrainError
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
    )
    assert (run.config.trainer.log_every, run.config.trainer.save_every) == (3, None)
    assert "trainer.log_every: 10 → 3" in run.resumed.differences
    assert len(run.resumed.differences) == 5


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


def test_length_may_change_only_where_the_schedule_allows(saved):
    text = refusal(saved(), "trainer.max_duration=2000step")
    assert "learning-rate schedule is laid out over the whole length" in text
    run = saved("scheduler=constant")("trainer.max_duration=2000step")
    assert run.resumed.differences == ("trainer.max_duration: '1000step' → '2000step'",)


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
