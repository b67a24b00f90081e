"""-m: which jobs the words ask for, and that every one of them is looked at before the first starts."""

from __future__ import annotations

import pytest

from bigtrain.config.compose import compose, validate
from bigtrain.config.library import Request
from bigtrain.errors import BigtrainError, ConfigError
from bigtrain.sweep.jobs import Sweep, expand, validated


def jobs_of(*words: str) -> list[dict[str, str]]:
    return [job.swept for job in expand(Request("train", words)).jobs]


def plan(*words: str) -> Sweep:
    return validated(expand(Request("train", words)))


def refusal(*words: str, verb: str = "train") -> str:
    try:
        validated(expand(Request(verb, words)))
    except BigtrainError as error:
        return str(error)
    raise AssertionError(f"{words} was accepted")


def test_the_product_in_the_order_of_the_words_as_typed():
    swept = jobs_of("optimizer.learning_rate=1e-3,3e-3", "trainer.log_every=5", "model=transformer,cnn")
    assert [tuple(job.values()) for job in swept] == [
        ("1e-3", "transformer"),
        ("1e-3", "cnn"),
        ("3e-3", "transformer"),
        ("3e-3", "cnn"),
    ]
    assert list(swept[0]) == ["optimizer.learning_rate", "model"]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=1,2", ["1", "2"]),
        ("seed=choice(4,2)", ["4", "2"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("model.dropout=range(0,0.3,0.1)", ["0.0", "0.1", "0.2"]),
        ("tags=[a,b],[c]", ["[a,b]", "[c]"]),
        ("tags=[a,b]", []),
        ("+extra.note=a,b", ["a", "b"]),
        ("+extra.note='a,b',c", ["'a,b'", "c"]),
        ("trainer.max_duration=10step,1epoch", ["10step", "1epoch"]),
        ("trainer.compile=true,false", ["true", "false"]),
        ("tracking.sample_prompt=choice(a,b)", ["a", "b"]),
        ("tracking.sample_prompt=choice('a, b',c)", ["a, b", "c"]),
        ("output_dir='a,b'", []),
    ],
)
def test_what_is_several_values(word, values):
    assert [value for job in jobs_of(word) for value in job.values()] == values


def test_a_glob_is_every_choice_like_it():
    def picked(word: str) -> set[str]:
        return {value for job in jobs_of(word) for value in job.values()}

    every = picked("model=glob(*)")
    assert every >= {"cnn", "gpt2", "transformer"}
    assert picked("model=glob(*,exclude=[g*,t*])") == {name for name in every if name[0] not in "gt"}
    mnists = picked("data=glob([*mnist*])")
    assert mnists >= {"fashion_mnist", "mnist"} and all("mnist" in name for name in mnists)
    assert "synthetic/markov" in picked("data=glob(synthetic/*)")


def test_a_comma_in_free_text_stays_text_and_is_said():
    assert "name=a,b is one text; to try several: name=choice(a,b)" in refusal("name=a,b", "seed=1,2")
    sweep = plan("tracking.sample_prompt=Well, then", "seed=1,2")
    assert sweep.notes == (
        "tracking.sample_prompt=Well, then is one text; to try several: tracking.sample_prompt=choice(Well, then)",
    )
    assert all("tracking.sample_prompt=Well, then" in job.overrides for job in sweep.jobs)


FILES = ("a.txt", "b.txt", "c d,e.txt", "f (1).txt")


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a.txt,b.txt", ["a.txt", "b.txt"]),
        ("a.txt, b.txt", ["a.txt", "b.txt"]),
        ("choice(a.txt,b.txt)", ["a.txt", "b.txt"]),
        ("choice('c d,e.txt',a.txt)", ["c d,e.txt", "a.txt"]),
        ("glob(*.txt)", list(FILES)),
        ("glob([a*,f*])", ["a.txt", "f (1).txt"]),
        ("glob(*,exclude=[c*,f*])", ["a.txt", "b.txt"]),
        ("a*,b*", ["a*", "b*"]),  # text_corpus takes patterns itself
        ("c d,e.txt", []),  # a file of that name
        ("'a.txt,b.txt'", []),
        ("none.txt,at all.txt", []),
    ],
)
def test_several_paths_are_several_values_where_they_are_there(tmp_path, monkeypatch, value, paths):
    for name in FILES:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [job["data.path"] for job in jobs_of(f"data.path={value}") if job] == paths
    sweep = plan("data=text_corpus", f"data.path={value}")
    assert [validate(compose(sweep.request_of(job))).config.data.path for job in sweep.jobs] == (
        paths or [value.strip("'")]
    )


def test_paths_that_are_not_there_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert "of 3 paths there is no b.txt, c.txt" in refusal("data=text_corpus", "data.path=a.txt,b.txt,c.txt")
    assert "no file is like *.csv" in refusal("data=text_corpus", "data.path=glob(*.csv)")
    with pytest.raises(ConfigError, match="-m tries each"):
        compose(Request("train", ("data=text_corpus", "data.path=choice(a.txt,b.txt)")))


def test_where_a_sweep_goes():
    assert plan("seed=1,2").name == "transformer-python_docs"
    assert plan("model=cnn,transformer").name == "mixed"
    assert (plan("name=x", "output_dir=y", "seed=1,2").name, plan("output_dir=y").output_dir) == ("x", "y")


def test_what_is_wrong_in_one_job_names_that_job():
    text = refusal("model=transformer,cnn", "model.num_heads=2", "trainer.gpu=1")
    assert 'cause: job 2/2 (model=cnn): command line, "model.num_heads=2"' in text
    assert text.count("trainer.gpu is not a setting") == 1  # in all jobs: said once
    assert "job 1/" not in text
    assert "job 2/3 (data=glyphs) and 1 more" in refusal("data=python_docs,glyphs,fashion_mnist")
    assert "trainer.batch_size is 0; it must be at least 1" in refusal("trainer.batch_size=0,1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=1,1"], "seed has 1 twice"),
        (["seed=range(3,1)"], "seed has no value"),
        (["seed=range(1,3,0)"], "for instance range(1,4)"),
        (["seed=range(0,100000000)"], "more than 1,000 jobs"),
        (["seed=interval(0,1)"], "list the values"),
        (["seed=1,2", "seed=3"], "seed is given twice"),
        (["optimizer.learning_rate=0,001"], "optimizer.learning_rate=0.001: decimals have a point"),
        (["seed=3", "seed=1,2"], "seed is given twice"),
        (["resume=latest", "seed=1,2"], "a sweep goes on with its own words"),
        (["output_dir=choice(a,b)"], "the jobs have 2 output_dir"),
        (["model=glob(x*)"], "choices: bert"),
        (["seed=glob(*)"], "no choices that glob() could pick"),
        (["sed=1,2"], "did you mean seed=1 ?"),
        (["hydra.launcher.n_jobs=1,2"], "can't be swept"),
        (["hydra.launcher.n_jobs=0"], "must be at least 1"),
        (["hydra.launcher.n_job=2"], "did you mean hydra.launcher.n_jobs=2 ?"),
        (["hydra.launcher._target_=x"], "is not a setting of the launcher"),
        (["hydra/launcher=submitit_slurn"], "did you mean hydra/launcher=submitit_slurm"),
        (["hydra/launcher=basic"], "jobs are processes of this machine"),
        (["hydra.sweep.dir=x"], "can't be set"),
        (["hydra/sweeper=x"], "can't be set"),
        (["hydra.callbacks.x._target_=y"], "can't be set"),
    ],
)
def test_words_that_no_sweep_can_use(words, expected):
    assert expected in refusal(*words)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("partion=gpu", "did you mean hydra.launcher.partition=gpu ?"),
        ("timeout_min=long", "it must be a whole number"),
        ("setup=[reboot]", "run it in the shell before bigtrain"),
        ("comment='a\nreboot'", "control character"),
        ("additional_parameters={a:'b\nreboot'}", "control character"),
        ("partition=${oc.env:HOME}", "or a reference"),
        ("_target_=os.system", "is not a setting of the launcher"),
        ("n_jobs=2", "the settings there are"),
    ],
)
def test_the_launchers_settings_are_as_strict_and_run_nothing(word, expected):
    assert expected in refusal("hydra/launcher=submitit_slurm", f"hydra.launcher.{word}", "seed=1,2")


@pytest.mark.parametrize(("word", "only"), [("nodes=2", 1), ("tasks_per_node=2", 1), ("max_num_timeout=3", 0)])
def test_several_tasks_and_jobs_that_start_again_are_slurms(word, only):
    assert f"can only be {only}" in refusal("hydra/launcher=submitit_local", f"hydra.launcher.{word}", "seed=1,2")
    key, _, value = word.partition("=")
    launcher = plan("hydra/launcher=submitit_slurm", f"hydra.launcher.{word}", "seed=1,2").launcher
    assert launcher.settings[key] == int(value)


def test_the_launchers_settings_are_those_of_the_plug_in():
    launcher = plan("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=8", "seed=1,2").launcher
    assert launcher.name == "submitit_slurm"
    assert (launcher.settings["mem_gb"], launcher.settings["timeout_min"]) == (8, 60)
    assert "_target_" not in launcher.settings


def test_parameters_that_submitit_passes_on_are_added_one_by_one():
    words = [f"hydra.launcher.additional_parameters.{word}" for word in ("a=b", "c=2")]
    launcher = plan("hydra/launcher=submitit_slurm", *words, "seed=1,2").launcher
    assert launcher.settings["additional_parameters"] == {"a": "b", "c": 2}


def test_without_the_plug_in_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hydra_plugins.hydra_submitit_launcher", None)
    assert "pip install 'bigtrain[slurm]'" in refusal("hydra/launcher=submitit_local", "seed=1,2")


def test_only_trainings_are_swept():
    assert "call bigtrain eval once for each" in refusal("checkpoint=a,b", verb="eval")


def test_secrets_are_hidden_where_jobs_are_shown():
    job = expand(Request("train", ("+extra.hf_token=abc,def",))).jobs[0]
    assert "abc" not in str(job) and "abc" not in str(job.shown())
    assert "+extra.hf_token=abc" in job.overrides
