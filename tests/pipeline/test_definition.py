"""A pipeline's YAML and words: what is read, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from bigtrain.config.library import Library, Request
from bigtrain.errors import BigtrainError
from bigtrain.pipeline.definition import Pipeline, Stage, read_pipeline
from bigtrain.pipeline.plan import Plan, make_plan
from tests.pipeline.small import SMALL, write_pipeline


def read(folder, text: str = SMALL, *words: str) -> Pipeline:
    write_pipeline(folder, "small", text)
    return read_pipeline(Request("train", ("pipeline=small", *words), config_dir=str(folder)))


def plan(folder, text: str = SMALL, *words: str) -> Plan:
    return make_plan(read(folder, text, *words))


def refusal(folder, text: str = SMALL, *words: str) -> str:
    with pytest.raises(BigtrainError) as caught:
        plan(folder, text, *words)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_steps_of_a_round_with_the_control(tmp_path):
    (steps,) = plan(tmp_path).rounds
    assert [step.label for step in steps] == ["pretrain", "finetune", "finetune_control", "measure on test"]
    assert [step.parent.stage if step.parent else None for step in steps] == [None, "pretrain", "pretrain", "finetune"]
    assert steps[2].overrides == steps[1].overrides


def test_words_of_the_command_line_are_the_strongest_and_those_of_a_stage_stronger_still(tmp_path):
    words = ("seed=3", "pipeline.stages.finetune.seed=4", "pipeline.stages.finetune.optimizer=sgd")
    steps = plan(tmp_path, SMALL.replace("seed=1", "seed=2"), *words).rounds[0]
    assert [step.composed.config.seed for step in steps if step.trains] == [3, 4, 4]
    assert steps[0].composed.choices["optimizer"] == "adamw" and steps[1].composed.choices["optimizer"] == "sgd"


def test_a_section_may_be_empty_one_word_stands_for_a_list_and_references_are_left_to_the_stage(tmp_path):
    text = SMALL.replace("  - seed=1", "  - name=${hydra:runtime.choices.model}") + "  more:\niterate:\n  until:\n"
    made = read(tmp_path, text, "pipeline.iterate.continue=pretrain", "pipeline.stages.measure.split=[val,test]")
    assert made.stages["more"] == Stage() and made.common[-1] == "name=${hydra:runtime.choices.model}"
    assert made.iterate.continues == ["pretrain"] and made.stages["measure"].split == ["val", "test"]


def test_a_control_can_be_left_out(tmp_path):
    steps = plan(tmp_path, SMALL, "pipeline.stages.finetune.control=false").rounds[0]
    assert "finetune_control" not in [step.stage for step in steps]


def test_rounds_go_on_from_their_own_weights_and_start_afresh_where_the_model_changes(tmp_path):
    rounds = """iterate:
  max_rounds: 3
  continue: [pretrain]
  schedule:
    - {finetune: [trainer.max_duration=12step]}
    - {pretrain: ["model.widths=[16,16]"], finetune: ["model.widths=[16,16]"]}
"""
    made = plan(tmp_path, SMALL + rounds)
    first, second, third = ({step.stage: step for step in steps} for steps in made.rounds)
    assert second["pretrain"].parent is first["pretrain"]
    assert second["finetune"].composed.config.trainer.max_duration == "12step"
    assert third["pretrain"].parent is None
    (note,) = made.notes
    assert note.startswith("round 3: pretrain starts afresh") and "model.widths" in note


def test_what_the_schedule_changed_stays_changed(tmp_path):
    text = SMALL + "iterate: {max_rounds: 3, continue: [pretrain], schedule: [{finetune: [seed=9]}]}\n"
    seeds = [steps[1].composed.config.seed for steps in plan(tmp_path, text).rounds]
    assert seeds == [1, 9, 9]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("init_from: pretrain", "init_form: pretrain", "did you mean pipeline.stages.finetune.init_from ?"),
        ("init_from: pretrain", "init_from: [pretrain]", "stages.finetune.init_from is"),
        ("evaluate: finetune", "evaluate: finetun", "stages.measure.evaluate is finetun"),
        ("evaluate: finetune", "evaluate: measure", "stages.measure.evaluate is measure"),
        ("split: test", "split: tset", "allowed are train, val, test"),
        ("optimizer.learning_rate=1e-2", "optimizer.lerning_rate=1e-2", "did you mean optimizer.learning_rate"),
        ("optimizer.learning_rate=1e-2", "optimizer.learning_rate=-1", "stage finetune"),
        ("optimizer.learning_rate=1e-2", "'model.widths=[9,9]'", "it starts from pretrain, whose model is another"),
        ("optimizer.learning_rate=1e-2", "init_from=somewhere", "init_from= is no word for a stage"),
        ("stages:", "stagse:", "did you mean pipeline.stages ?"),
        ("  measure:", "  finetune_control:", "can't be called so"),
        ("split: test", "split: test\n    control: maybe", "line 22"),
        ("stages:", "name: x\nstages:", "pipeline.name is not a setting of a pipeline"),
    ],
)
def test_mistakes_in_the_file(tmp_path, old, new, said):
    assert old in SMALL
    assert said in refusal(tmp_path, SMALL.replace(old, new))


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ("{max_rounds: 2}", "round 2 would be as round 1"),
        ("{max_round: 2}", "did you mean pipeline.iterate.max_rounds ?"),
        ("{max_rounds: 0}", "at least 1"),
        ("{patience: 2}", "patience needs a metric"),
        ("{until: {metric: finetune/val/accuracy}}", "only one of metric and target"),
        ("{until: {metric: finetune/val/acuracy, target: 0.9}}", "did you mean finetune/val/accuracy"),
        ("{until: {metric: finetun/val/accuracy, target: 0.9}}", "did you mean finetune/val/accuracy"),
        ("{until: {metric: finetune/train/accuracy, target: 0.9}}", "measured on val and test"),
        ("{until: {metric: measure/val/accuracy, target: 0.9}}", "measured on test"),
        ("{continue: [finetune]}", "start from no other stage"),
        ("{schedule: [{pretrian: [seed=1]}]}", "did you mean pretrain"),
    ],
)
def test_mistakes_about_rounds(tmp_path, rounds, said):
    assert said in refusal(tmp_path, f"{SMALL}iterate: {rounds}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pipeline.stages.finetun.seed=1"], "did you mean pipeline.stages.finetune.seed=1"),
        (["pipeline.stages.finetune.optimizer.lr=1"], "did you mean optimizer.learning_rate"),
        (["pipeline.iterate.max_round=2"], "did you mean pipeline.iterate.max_rounds=2 ?"),
        (["pipeline.iterate.max_rounds=two"], "it must be a whole number"),
        (["pipeline.stages.measure.split=val,test"], "a list is pipeline.stages.measure.split=[val,test]"),
        (["pipeline.stages.finetun={control: false}"], "the settings there are pipeline.stages.pretrain"),
        (["pipeline.iterate.until.metrik=2"], "did you mean pipeline.iterate.until.metric=2 ?"),
        (["pipeline.rounds=2"], "pipeline.rounds is not a setting of a pipeline"),
        (["model.hiden_size=2"], "stage pretrain"),
        (["resume=latest"], "goes on with one run"),
        (["pipeline=other"], "given 2 times"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, words, said):
    assert said in refusal(tmp_path, SMALL, *words)


def test_all_pipelines_that_ship_compose(tmp_path):
    needed = {
        "bert_sst2": ["data.path=sst2", "pipeline.stages.finetune.init_from=outputs/bert"],
        "bert_sst2_own": ["pipeline.stages.pretrain.data.path=texts", "pipeline.stages.finetune.data.path=sst2"],
        "gpt_domain": ["pipeline.stages.domain.data.path=texts"],
    }
    choices = Library(Request("train"), []).choices("pipeline")
    assert {"quickstart", "cnn_transfer", *needed} <= set(choices)
    for choice in choices:
        request = Request("train", (f"pipeline={choice}", *needed.get(choice, [])))
        assert make_plan(read_pipeline(request)).rounds
    with pytest.raises(BigtrainError, match="stages.finetune.init_from has no value"):
        read_pipeline(Request("train", ("pipeline=bert_sst2",)))
