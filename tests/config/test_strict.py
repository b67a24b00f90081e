"""A typo is never ignored, wherever it stands; the message names it, its cause and what was meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.errors import BigtrainError
from tests.config.composing import composed, refusal, write

TYPOS = {
    "trainer.gpu=1": "did you mean trainer.gpus=1 ?",
    "+trainer.gpu=1": "did you mean trainer.gpus=1 ?",
    "++trainer.gpu=1": "did you mean trainer.gpus=1 ?",
    "model.hiden_size=64": "did you mean model.hidden_size=64 ?",
    "++model.hiden_size=64": "did you mean model.hidden_size=64 ?",
    "trianer.gpus=1": "did you mean trainer.gpus=1 ?",
    "hidden_size=64": "did you mean model.hidden_size=64 ?",
    "trainer.learning_rate=0.1": "did you mean optimizer.learning_rate=0.1 ?",
    "lr=0.1": "did you mean optimizer.learning_rate=0.1 ?",
    "optimizer.lr=0.1": "did you mean optimizer.learning_rate=0.1 ?",
    "epochs=3": "did you mean trainer.max_duration=3epoch ?",
    "trainer.max_steps=200": "did you mean trainer.max_duration=200step ?",
    "bs=8": "trainer.batch_size=8",
    "gpus=1": "fix:   did you mean trainer.gpus=1 ?",
    "model.n_layer=2": "did you mean model.num_layers=2 ?",
    "+nonsense=1": "the settings there are name, seed",
    "+model.zzz=1": "the settings there are model.hidden_size",
    "modle=cnn": "did you mean model=cnn ?",
    "optimzer=sgd": "did you mean optimizer=sgd ?",
    "model=cn": "did you mean model=cnn ?",
    "model=trnsformer": "did you mean model=transformer ?",
    "data=markov": "did you mean data=synthetic/markov ?",
    "model=": "choices: bert, ",
    "model=null": "model=null is not a choice",
    "model=[cnn,gpt2]": "is not a choice",
    "experiment=foo": "experiment=foo is not a choice",
    "~model": "model can't be left out",
    "~trainer.gpus": "can't be removed",
    "~trainer.gpuss": "did you mean trainer.gpus ?",
    "model@other=cnn": "write model=…",
    "schema/model=cnn": "schema/model is not a setting",
    "optimizer.momentum=0.9": "optimizer=sgd; this run has adamw",
    "data.order=9": "belongs to data=synthetic/markov",
    "prompt=a": "belongs to bigtrain generate",
    "checkpoint=x": "belongs to bigtrain eval and bigtrain generate",
    "trainer.batch_size=big": "it must be a whole number",
    "trainer.batch_size=1.5": "it must be a whole number",
    "trainer.batch_size=true": "it must be a whole number",
    "trainer.batch_size=null": "it must be a whole number",
    "trainer.batch_size=[1]": "it must be a whole number",
    "trainer.batch_size={a:1}": "one setting, not a group",
    "trainer.clip_norm=big": "it must be a number, or null",
    "trainer.deterministic=maybe": "it must be true or false",
    "trainer.precision=fp23": "one of auto, fp32, bf16, fp16, probe; did you mean trainer.precision=fp32 ?",
    "model.norm=layer": "did you mean model.norm=layernorm ?",
    "optimizer.betas=0.9": "a list of numbers in brackets",
    "tags=a": "a list of texts in brackets",
    "trainer=3": "it must be a group of settings",
    "trainer.gpus.x=1": "one setting, not a group",
    "extra=3": "it must be a group of settings",
    "extra={1:2}": "the key 1 is not text",
    "trainer.batch_size=1,2": "one run takes one value",
    "trainer.batch_size=range(1,3)": "one run takes one value",
    "name='a": "a quote is not closed",
    "trainer.gpus=[1": "the value can't be read",
    "=3": "names no setting",
    "trainer.compile=maybe": "allowed: auto, true, false",
    "trainer.max_duration=3parsecs": "2000step, 3epoch, 10Mtok",
    "trainer.batch_size=0": "it must be at least 1",
    "optimizer.learning_rate=inf": "it must be finite",
    "optimizer.learning_rate=nan": "it must be finite",
    "seed=${oc.decode:1}": "resolver ${oc.decode:…}, which is not allowed",
    "seed=${${name}:1}": "the value can't be read",
    "+extra.x=${now:%Y}": "resolver ${now:…}",
    "seed=${sed}": "points to sed, and there is no such key",
    "name=${oc.env:BIGTRAIN_NO_SUCH}": "needs the environment variable BIGTRAIN_NO_SUCH",
    "seed=${name}": "does not give a value of the right type",
    "seed=${seed}": "points to itself",
    "optimizer.betas=${model}": "does not give a value of the right type",
    "optimizer.betas=${name}": "does not give a value of the right type",
    "+extra.x=${..}": "it must be a plain value, or a reference",
    "+extra.x=" + "[" * 99 + "]" * 99: "the value can't be read",
    "seed=???": "seed has no value",
    "hydra.callbacks.x._target_=logging.FileHandler": "can't be set: bigtrain sets Hydra up itself",
    "hydra.run.dir=x": "can't be set",
    "hydra/launcher=basic": "can't be set",
    "hydra.serchpath=[x]": "did you mean hydra.searchpath ?",
    "hydra.searchpath=[/no/such]": "/no/such is not a folder",
    "hydra.searchpath=x": "write hydra.searchpath=[dir]",
}


@pytest.mark.parametrize("word", TYPOS)
def test_typo_is_refused_with_a_hint(word):
    text = refusal(word)
    assert TYPOS[word] in text
    assert text.startswith("error[CONFIG-")
    if "is not a setting" in text:
        assert f'cause: command line, "{word}"' in text
    for raw in ("omegaconf", "full_key", "object_type", "To append to your", "LexerNoViableAlt"):
        assert raw not in text


def test_a_secret_is_not_repeated():
    assert "s3cr3t" not in refusal("extr.hf_token=https://a:s3cr3t@b")


def test_all_problems_are_shown_together():
    text = refusal("trainer.gpu=1", "model=cn", "lr=1", "name='a", "hydra.x=1", "trainer.batch_size=big")
    assert text.count("error[") == 6


def test_all_values_out_of_range_are_shown_together():
    text = refusal("trainer.batch_size=0", "model.dropout=1", "optimizer.betas=[1]", "data.sequence_length=2000")
    assert text.count("error[") == 4


@pytest.mark.parametrize(
    ("yaml", "expected"),
    {
        "trainer: {gpu: 1}": ["trainer.gpu is not a setting", "line 2", "did you mean trainer.gpus ?"],
        "trainer:\n  batch_size: big": ["trainer.batch_size is 'big'", "line 3", "a whole number"],
        "trianer: {gpus: 1}": ["trianer is not a setting", "did you mean trainer ?"],
        "model: {hiden_size: 3}": ["model.hiden_size", "did you mean model.hidden_size ?"],
        "model: 3": ["it must be a group of settings"],
        "trainer: {batch_size: 0}": ["trainer.batch_size is 0; it must be at least 1", "line 2"],
        "seed: ${oc.create:1}": ["the resolver ${oc.create:…}", "line 2"],
        "seed: ${nothing}": ["points to nothing", "line 2"],
        "defaults: [override /model: cn]": [
            "model/cn does not exist",
            "typo.yaml",
            "did you mean model=cnn ?",
        ],
        "defaults: [override /modle: cnn]": ["modle is not a group", "did you mean model ?"],
        "defaults: [override /hydra/launcher: basic]": ["hydra/launcher is not a group"],
        "hydra: {callbacks: {x: {_target_: logging.FileHandler}}}": ["has a hydra: node"],
        "resume: latest": ["resume stands in a file"],
    }.items(),
)
def test_typo_in_an_experiment_is_refused_with_file_and_line(tmp_path, yaml, expected):
    write(tmp_path, "experiment/typo", f"# @package _global_\n{yaml}\n")
    text = refusal("experiment=typo", folder=tmp_path)
    for words in (*expected, "typo.yaml"):
        assert words in text


def test_experiment_without_package_line_says_so(tmp_path):
    write(tmp_path, "experiment/typo", "trainer: {batch_size: 1}\n")
    assert "# @package _global_" in refusal("experiment=typo", folder=tmp_path)


def test_own_model_without_schema_says_so(tmp_path):
    write(tmp_path, "model/mine", "hidden_size: 3\n")
    assert "/schema/model@_here_" in refusal("model=mine", folder=tmp_path)


def test_hydra_node_smuggled_in_by_a_package_is_refused(tmp_path):
    write(tmp_path, "experiment/evil", "# @package hydra.callbacks\nx: {_target_: logging.FileHandler}\n")
    assert "hydra is not a setting" in refusal("experiment=evil", folder=tmp_path)


def test_file_with_the_name_of_a_shipped_one_is_refused(tmp_path):
    write(tmp_path, "model/cnn", "kernel_size: 5\n")
    assert "would be ignored" in refusal("model=cnn", folder=tmp_path)


def test_other_verbs_are_strict_too():
    assert "did you mean checkpoint=x ?" in refusal("checkpont=x", verb="eval")
    assert "it comes with the checkpoint" in refusal("model=cnn", "checkpoint=x", verb="eval")
    assert "data.path=" in refusal("data=mnist", "checkpoint=x", verb="eval")
    assert "allowed: auto, train, val, test" in refusal("checkpoint=x", "split=tset", verb="eval")
    assert "did you mean temperature=1 ?" in refusal("checkpoint=x", "temprature=1", verb="generate")
    assert "did you mean checkpoint=outputs/x ?" in refusal("outputs/x", verb="eval")
    assert "the optimizer and its settings come with the checkpoint" in refusal("optimizer.betas=1", verb="eval")
    assert "the data and its settings come with the checkpoint" in refusal("data.split=a", verb="generate")
    assert "needs a checkpoint" in refusal(verb="generate")
    assert composed("checkpoint=x", verb="eval").config.split == "auto"


KEYS = st.sampled_from(
    [
        "seed",
        "model",
        "trainer.gpus",
        "extra",
        "+extra.a",
        "~extra.a",
        "optimizer.betas",
        "x",
        "tags",
        "data.split",
    ]
)
VALUES = st.text(alphabet="ab1,.:=[]{}$()'\"\\/@~+? ", max_size=8) | st.sampled_from(
    ["${seed}", "${.x}", "${extra}", "${model}", "null", "???", "1e400", "[1,2]", "{a:{b:1}}", "choice(1,2)"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=3), st.sampled_from(["train", "eval", "generate"]))
def test_any_words_are_accepted_or_refused_in_our_words(pairs, verb):
    try:
        composed(*(f"{key}={value}" for key, value in pairs), verb=verb)
    except BigtrainError as error:
        assert all(problem.code.startswith("CONFIG-") for problem in error.problems)
