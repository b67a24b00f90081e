"""-m sweep=scaling: the jobs that the words ask for, what is refused, and what a sweep that goes on may change."""

from __future__ import annotations

import json

import pytest

from bigtrain.config.library import Request
from bigtrain.errors import BigtrainError
from bigtrain.sweep.jobs import expand, validated
from bigtrain.sweep.saved import FILE, document_of

LENGTHS = "trainer.max_duration=10step,20step,40step"
TABLE = "sweep.sizes={model.hidden_size:[16,32,64],model.num_layers:[1,2,2]}"


def refusal(*words: str) -> str:
    try:
        validated(expand(Request("train", words)))
    except BigtrainError as error:
        return str(error)
    raise AssertionError(f"{words} was accepted")


def test_it_is_the_grid_of_an_ordinary_sweep():
    words = ("model.hidden_size=16,32,64", LENGTHS)
    plain, scaling = expand(Request("train", words)), validated(expand(Request("train", ("sweep=scaling", *words))))
    assert scaling.jobs == plain.jobs
    assert scaling.scaling is not None
    assert (plain.scaling, scaling.search) == (None, None)


def test_settings_that_change_together_are_one_axis():
    sweep = validated(expand(Request("train", ("sweep=scaling", TABLE, LENGTHS, "model=transformer"))))
    assert len(sweep.jobs) == 9
    assert sweep.jobs[3].swept == {
        "model.hidden_size": "32",
        "model.num_layers": "2",
        "trainer.max_duration": "10step",
    }
    assert sweep.jobs[3].overrides[0] == "model=transformer"


def test_values_of_the_table_are_taken_as_typed():
    table = "sweep.sizes={model.dropout:[0.0,0.1,0.2],model.bias:[true,false,true],name:['a,b','c d',e]}"
    sweep = expand(Request("train", ("sweep=scaling", table, LENGTHS)))
    assert [job.swept["model.bias"] for job in sweep.jobs[::3]] == ["true", "false", "true"]
    assert [job.swept["name"] for job in sweep.jobs[::3]] == ["'a,b'", "'c d'", "'e'"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LENGTHS], "no law can be fitted to 3 runs of 1 model and 3 lengths of training"),
        ([LENGTHS, "model.hidden_size=16,32"], "no law can be fitted to 6 runs of 2 models and 3 lengths"),
        (["seed=1,2"], "model.hidden_size=32,64,128 trainer.max_duration="),
        ([LENGTHS, "sweep.budget=1e18"], "sweep.budget_flops"),
        ([LENGTHS, "sweep.budget_flops=0"], "sweep.budget_flops is 0"),
        ([LENGTHS, "sweep.parameters=some"], "allowed: all, non_embedding"),
        ([LENGTHS, "sweep.trials=3"], "sweep.trials is not a setting of sweep=scaling"),
        ([LENGTHS, "sweep.sizes={model.hidden_size:[16,32],model.num_layers:[1]}"], "the columns have 1, 2 values"),
        ([LENGTHS, "sweep.sizes={model.hidden_size:16}"], "it must be a list of values"),
        ([LENGTHS, TABLE, "model.num_layers=2"], "model.num_layers is given outside the table, too"),
        ([LENGTHS, "model.dropout=interval(0,1)"], "which has no list of values"),
        ([LENGTHS, "model.hidden_size=16,32,64", "+extra.api_key=hush"], "holds a secret"),
    ],
)
def test_what_is_refused(words, said):
    assert said in refusal("sweep=scaling", *words)


@pytest.mark.parametrize("words", [(LENGTHS, "model.hidden_size=16,32"), ("model.hidden_size=16,32,64",)])
def test_where_E_is_known_a_smaller_grid_will_do(words):
    assert "no law" in refusal("sweep=scaling", *words)
    validated(expand(Request("train", ("sweep=scaling", "sweep.irreducible_loss=1.5", *words))))


def test_a_sweep_that_goes_on_may_change_what_the_fit_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = expand(Request("train", ("sweep=scaling", LENGTHS, "model.hidden_size=16,32,64")))
    folder = tmp_path / "outputs/some/sweeps/1"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(document_of(first.request)))
    again = expand(Request("train", ("resume=latest", "sweep.budget_flops=1e18", "hydra.launcher.n_jobs=2")))
    assert again.jobs == first.jobs
    assert (again.scaling.resumed, again.scaling.settings.budget_flops) == (folder.relative_to(tmp_path), 1e18)
    assert again.launcher.settings["n_jobs"] == 2
    with pytest.raises(BigtrainError, match="goes on with its own words"):
        expand(Request("train", ("resume=latest", "sweep.trials=3")))
