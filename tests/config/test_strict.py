"""A typo is never ignored, wherever it stands; the message names it, its cause and what was meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config.overrides import parse_overrides
from bigtrain.config.saved import checked
from bigtrain.config.settings import setting
from bigtrain.config.strict import Origin, StrictTree
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
    "checkpoint=x": "belongs to bigtrain eval, bigtrain generate and bigtrain export",
    "trainer.batch_size=big": "it must be a whole number",
    "trainer.batch_size=1.5": "it must be a whole number",
    "trainer.batch_size=true": "it must be a whole number",
    "trainer.batch_size=null": "it must be a whole number",
    "trainer.batch_size=[1]": "it must be a whole number",
    "trainer.micro_batch_size=2.5": "it must be a whole number, text, or null",
    "trainer.batch_size={a:1}": "one setting, not a group",
    "trainer.clip_norm=big": "it must be a number, or null",
    "trainer.deterministic=maybe": "it must be true or false",
    "trainer.precision=fp23": "one of auto, fp32, bf16, fp16, fp8, probe; did you mean trainer.precision=fp32 ?",
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
    "tags=[#1,#2 b]": """quote what is text in the list: 'tags=["#1","#2 b"]'""",
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
    # Words of other projects.
    "trainer.num_workers=4": "leave it out: the training process makes its batches itself",
    "logger=wandb": "metrics go to metrics.jsonl",
    "logger=tensorboard": "did you mean tracking.tensorboard=true ?",
    "device=cpu": "did you mean trainer.gpus=0 ?",
    "device=cuda:0": "did you mean trainer.gpus=1 ?",
    "trainer.gpus=cpu": "did you mean trainer.gpus=0 ?",
    "trainer.gpu=two": "trainer.gpus=…: GPUs to use on this machine",
    "accelerator=gpu": "did you mean trainer.gpus=auto ?",
    "strategy=ddp": "did you mean trainer.strategy=ddp ?",
    "distributed=true": "train together by themselves",
    "accumulate_grad_batches=4": "trainer.batch_size=32 trainer.micro_batch_size=8",
    "gradient_checkpointing=true": "did you mean trainer.activation_checkpointing=full ?",
    "resume_from_checkpoint=x.ckpt": "resume=latest",
    "ckpt_path=x": "init_from=<run directory>",
    "fast_dev_run=true": "did you mean debug=limit ?",
    "callbacks=[x]": "trainer.early_stopping.patience=3",
    "fp16=true": "did you mean trainer.precision=fp16 ?",
    "bf16=false": "did you mean trainer.precision=fp32 ?",
    "precision=16-mixed": "did you mean trainer.precision=fp16 ?",
    "trainer.precision=bf16-mixed": "did you mean trainer.precision=bf16 ?",
    "seed_everything=42": "did you mean seed=42 ?",
    "val_check_interval=0.5": "did you mean trainer.eval_every=0.5epoch ?",
    "monitor=val_loss": "did you mean trainer.early_stopping.metric=loss ?",
    "optimizer.type=AdamW": "did you mean optimizer=adamw ?",
    "lr_scheduler_type=cosine": "did you mean scheduler=cosine ?",
    "dataset=mnist": "did you mean data=mnist model=cnn or",
    "data.text=review": "data.text_column belongs to data=sst2 and data=text_classification",
    # The same written otherwise.
    "Trainer.Batch_Size=3": "did you mean trainer.batch_size=3 ?",
    "optimizer=AdamW": "did you mean optimizer=adamw ? (choices:",
    "model=GPT-2": "did you mean model=gpt2 ?",
    "model=resnet18": "did you mean model=resnet model.depth=18 ?",
    "data=cifar-10": "did you mean data=cifar10 model=cnn ?",
    "optimizer.learning_rate=0,001": "did you mean optimizer.learning_rate=0.001 ?",
    "trainer.batch_size=1,000": "did you mean trainer.batch_size=1000 ?",
    "task.label_smoothing=10": "did you mean task.label_smoothing=0.1 ?",
    "model.dropout=15": "did you mean model.dropout=0.15 ?",
    "trainer.gpus=-1": "did you mean trainer.gpus=auto ?",
    "trainer.devices=-1": "did you mean trainer.gpus=auto ?",
    "trainer.batch_size=1e2": "did you mean trainer.batch_size=100 ?",
    "optimizer.betas=0.9,0.95": "did you mean optimizer.betas=[0.9,0.95] ?",
    "trainer.max_duration=3": "did you mean trainer.max_duration=3step or trainer.max_duration=3epoch ?",
    "trainer.max_duration=0,5epoch": "did you mean trainer.max_duration=0.5epoch ?",
    "trainer.time_limit=2hours": "did you mean trainer.time_limit=2h ?",
    "trainer.time_limit=2Days": "did you mean trainer.time_limit=48h ?",
    "trainer.time_limit=1:30:00": "did you mean trainer.time_limit=90min ?",
    "trainer.max_duration=1h30m": "trainer.max_duration=90min scheduler=constant or trainer.time_limit=90min ?",
    "trainer.max_duration=3Epoch": "did you mean trainer.max_duration=3epoch ?",
    "trainer.max_duration=10M": "did you mean trainer.max_duration=10Mstep, trainer.max_duration=10Mtok or",
    "trainer.eval_every=epoch": "did you mean trainer.eval_every=1epoch ?",
    "scheduler.warmup=10percent": "did you mean scheduler.warmup=10% ?",
    "model.norm=LayerNorm": "did you mean model.norm=layernorm ?",
    # What can't be had by a word says how it can.
    "trainer.early_stopping=true": "trainer.early_stopping.patience=3 stops",
    "tracking=false": "it must be a group of settings: tracking.tensorboard=…",
    "data=imdb": "data=text_classification data.path=<file.csv>",
    "data=wikitext-2": "data=text_corpus data.path=<file or folder>",
    "data=multi-30k": "here it is called data=multi30k data.path=… model=seq2seq",
    "data=nothing-known": "files of your own: data=text_corpus",
    "experiment=shakespeare": "tinyshakespeare/input.txt",
    "experiment=sst2": "train.tsv, dev.tsv and test.tsv as data.path",
    "data=text_corpus": "data.path is missing; give data.path=<your file or folder>",
    "model.num_heads=3": "use num_heads=2 or 4, or hidden_size=126 or 132",
    "data=mnist": "did you mean model=cnn, model=mlp or model=resnet ?",
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
    for guesses in re.findall(r"did you mean (.*?) \?", text):
        for guess in re.split(", | or ", guesses):
            if "=" in guess:  # what is suggested is accepted
                composed(*guess.split(" "))
    for raw in ("omegaconf", "full_key", "object_type", "To append to your", "LexerNoViableAlt"):
        assert raw not in text


# Of several rounds of guesses only what would be accepted is shown, with the other words as they were typed.
NEVER = {
    "scheduler.warmup_ratio=0.1": ("scheduler.warmup=0.1",),
    "trainer.num_workers=4": ("num_layers", "num_kv_heads"),
    "logger=wandb": ("log_every",),
    "data.text=review": ("extra",),
    "device=tpu": ("trainer.gpus=tpu",),
    "epochs=many": ("max_duration=many",),
    "optimizer=AdamW": ("optimizer=adam ",),
}


@pytest.mark.parametrize("word", NEVER)
def test_what_would_be_refused_is_not_suggested(word):
    text = refusal(word)
    assert not [never for never in NEVER[word] if never in text]


def test_a_suggestion_fits_the_other_words():
    assert "did you mean trainer.micro_batch_size=6" in refusal("mbs=6", "trainer.batch_size=24")
    assert "did you mean" not in refusal("mbs=6", "trainer.batch_size=32")
    text = refusal("trainer.gpu=1", "device=cpu", "trainer.batch_size=0", "lr=-1")
    assert "did you mean trainer.gpus=1" in text and "did you mean trainer.gpus=0" in text
    assert "optimizer.learning_rate=-1" not in text


def test_a_file_in_place_of_data_is_data_of_its_kind(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.csv").touch()
    place = str(tmp_path / "a")
    assert f"did you mean data=text_corpus data.path={place}.txt ?" in refusal(f"data={place}.txt")
    text = refusal(f"data={place}.csv")
    assert f"data=text_classification data.path={place}.csv task=classification" in text


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


@settings(max_examples=settings().max_examples // 5)  # each composes a whole config
@given(st.lists(st.tuples(KEYS, VALUES), max_size=3), st.sampled_from(["train", "eval", "generate"]))
def test_any_words_are_accepted_or_refused_in_our_words(pairs, verb):
    try:
        composed(*(f"{key}={value}" for key, value in pairs), verb=verb)
    except BigtrainError as error:
        assert all(problem.code.startswith("CONFIG-") for problem in error.problems)


@pytest.mark.parametrize(
    ("file", "guess"),
    [
        ("cat/0.JPG", "data=image_folder data.path={} model=cnn"),
        ("train.tsv", "data=text_classification data.path={} task=classification"),
        ("a/b.txt", "data=text_corpus data.path={}"),
    ],
)
def test_a_folder_as_data_is_read_by_what_is_in_it(tmp_path, file, guess):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert f"did you mean {guess.format(tmp_path)} ?" in refusal(f"data={tmp_path}")


def test_several_files_are_for_a_sweep(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    word = f"data.path={tmp_path}/a.txt,{tmp_path}/b.txt"
    assert "-m tries each" in refusal("data=text_corpus", word)
    (tmp_path / "a.txt").unlink()
    composed("data=text_corpus", word)  # it may be one file with a comma in its name, which is missed later


def test_advice_leaves_nothing_of_what_it_is_for():
    text = refusal("model=bert", "task=regression", "data=text_classification", "data.path=x")
    assert "tasks that suit the model: task=classification" in text and "did you mean" not in text


def test_words_without_a_key_may_be_a_prompt():
    assert "did you mean prompt='Once upon' ?" in refusal("Once upon", verb="generate")


@dataclass
class Part:
    size: int = setting(1, "Size.", at_least=1)
    names: list[str] = setting([], "Names.", one_or_more=True)
    _target_: str = "os.system"


@dataclass
class Alone:
    part: Part = setting(Part, "A group.")
    parts: dict[str, Part] = setting({}, "Groups by name.")


def tree_of(*words: str) -> StrictTree:
    tree = StrictTree.of("some.where", Alone, "a toy")
    tree.assign({"some": {"where": {"parts": {"one": {}, "two": {"size": 3}}}}}, Origin(file="toy.yaml"))
    for override in parse_overrides("train", [f"some.where.{word}" for word in words])[0]:
        tree.apply(override)
    return tree


def test_the_settings_of_any_dataclass_are_taken_as_strictly():
    settings = checked(tree_of("part.size=2", "parts.one.names=a")).some.where
    assert settings == Alone(Part(2), {"one": Part(names=["a"]), "two": Part(3)})


@pytest.mark.parametrize(
    ("word", "message", "fix"),
    [
        ("part.sise=2", "some.where.part.sise is not a setting of a toy", "did you mean some.where.part.size=2 ?"),
        ("part.sise=x", "some.where.part.sise is not a setting", "the settings there are some.where.part.size, "),
        ("parts.one.sise=2", "some.where.parts.one.sise is not", "did you mean some.where.parts.one.size=2 ?"),
        ("parts.three.size=2", "some.where.parts.three.size is not", "some.where.parts.two.size=2"),
        ("part.size=4.0", "some.where.part.size is 4.0", "a whole number; did you mean some.where.part.size=4 ?"),
        ("part.size=0", "some.where.part.size is 0; it must be at least 1", "Size."),
        ("part.size={a: 1}", "some.where.part.size is one setting, not a group", "a whole number"),
        ("parts=3", "some.where.parts is 3", "a group of settings"),
        ("part._target_=x", "some.where.part._target_ is not a setting of a toy", "the settings there are"),
        ("part.names=${oc.decode:1}", "uses the resolver ${oc.decode:…}", "allowed"),
    ],
)
def test_what_a_tree_that_stands_alone_refuses(word, message, fix):
    with pytest.raises(BigtrainError) as error:
        checked(tree_of(word))
    (problem,) = error.value.problems
    assert message in problem.message and fix in problem.fix and problem.cause == f'command line, "some.where.{word}"'
