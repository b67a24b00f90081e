"""Every choice composes to its registered type; what is typed wins over what models and experiments bring."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from bigtrain.config.compose import compose
from bigtrain.config.library import Library, Request
from bigtrain.config.run import Precision
from bigtrain.data.images.config import GlyphsConfig, IDXConfig
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.data.text.config import PythonDocsConfig
from bigtrain.models.config import TransformerConfig
from bigtrain.models.vision.config import CNNConfig
from bigtrain.optim.config import SGDConfig
from bigtrain.registry import REGISTRIES
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig
from tests.config.composing import composed, write

LIBRARY = Library(Request("train"), [])
CHOICES = [(kind, choice) for kind in REGISTRIES for choice in LIBRARY.choices(kind)]


@pytest.mark.parametrize(("kind", "choice"), CHOICES)
def test_every_choice_composes_to_its_registered_type(kind, choice):
    composition = compose(Request("train", (f"{kind}={choice}",)))
    part = REGISTRIES[kind][LIBRARY.parts(kind)[choice]]
    assert OmegaConf.get_type(composition.tree.config[kind]) is part.config_class
    assert composition.choices[kind] == choice


def test_every_registered_part_has_a_choice():
    for kind, registry in REGISTRIES.items():
        assert set(LIBRARY.parts(kind).values()) == set(registry.names())


def test_without_words_a_transformer_learns_python_docs():
    run = composed()
    assert (type(run.config.model), type(run.config.data)) == (TransformerConfig, PythonDocsConfig)
    assert isinstance(run.config.task, LanguageModelingConfig)
    assert run.config.name == "transformer-python_docs"


def test_a_model_brings_data_and_task_and_typed_choices_win():
    cnn = composed("model=cnn").config
    assert (type(cnn.model), type(cnn.data), type(cnn.task)) == (
        CNNConfig,
        GlyphsConfig,
        ClassificationConfig,
    )
    assert type(composed("model=cnn", "data=fashion_mnist").config.data) is IDXConfig
    assert type(composed("data=fashion_mnist", "model=cnn").config.data) is IDXConfig


def test_nested_choice_lands_in_its_node():
    run = composed("data=synthetic/markov", "data.vocab_size=8")
    assert isinstance(run.config.data, MarkovConfig)
    assert run.config.data.vocab_size == 8
    assert run.config.name == "transformer-synthetic-markov"


def test_experiment_wins_over_model_and_command_line_over_experiment(tmp_path):
    write(
        tmp_path,
        "experiment/images",
        "# @package _global_\n"
        "defaults:\n  - override /model: cnn\n  - override /data: idx\n  - override /optimizer: sgd\n"
        "data: {path: here}\noptimizer: {learning_rate: 0.5}\ntrainer: {batch_size: 7, compile: true}\n",
    )
    run = composed("experiment=images", folder=tmp_path)
    assert (type(run.config.data), run.config.data.path) == (IDXConfig, "here")
    assert type(run.config.optimizer) is SGDConfig
    assert (run.config.optimizer.learning_rate, run.config.trainer.batch_size) == (0.5, 7)
    assert run.config.trainer.compile == "true"
    assert run.config.name == "images"
    assert run.choices["experiment"] == "images"
    for word in ("~experiment", "experiment=null"):
        without = composed("experiment=images", word, folder=tmp_path)
        assert type(without.config.model) is TransformerConfig
    typed = composed("experiment=images", "optimizer.learning_rate=0.1", "name=x", folder=tmp_path)
    assert (typed.config.optimizer.learning_rate, typed.config.name) == (0.1, "x")


def test_own_choice_in_own_folder(tmp_path):
    write(
        tmp_path,
        "model/small",
        "defaults:\n  - /schema/model@_here_: transformer\n  - _self_\nnum_layers: 1\n",
    )
    assert composed("model=small", folder=tmp_path).config.model.num_layers == 1
    assert composed("model=small", f"hydra.searchpath=[{tmp_path}]").config.model.num_layers == 1


def test_values_take_the_types_of_their_settings():
    config = composed(
        "trainer.gpus=1",
        "trainer.precision=bf16",
        "trainer.compile=false",
        "trainer.eval_every=null",
        "optimizer.learning_rate=1",
        "optimizer.betas=[0.5,0.6]",
        "data.split=0.8,0.1,0.1",
        "tags=[a,b]",
        "++seed=3",
        "+trainer.batch_size=8",
    ).config
    assert (config.trainer.gpus, config.trainer.precision) == ("1", Precision.bf16)
    assert (config.trainer.compile, config.trainer.eval_every) == ("false", None)
    assert (config.optimizer.learning_rate, config.optimizer.betas) == (1.0, [0.5, 0.6])
    assert isinstance(config.optimizer.learning_rate, float)
    assert (config.data.split, config.tags) == ("0.8,0.1,0.1", ["a", "b"])
    assert (config.seed, config.trainer.batch_size) == (3, 8)


def test_extra_is_free():
    assert composed("+extra.note=hello", "extra.a.b=[1,2]", "++extra.a.c=x", "~extra.note").config.extra == {
        "a": {"b": [1, 2], "c": "x"}
    }


@pytest.mark.parametrize(
    "prompt",
    ["The ", "Hello, world", "a=b", "{x} [y", "it's", '"', "${seed}", "\\${a}", "x\\", "1e3", "  ", ""]
    + ["null", '"quoted"', "'a, b'", "true", "[1]"],
)
def test_a_prompt_is_taken_as_it_stands(prompt):
    assert composed("checkpoint=x", f"prompt={prompt}", verb="generate").config.prompt == prompt


def test_a_quoted_path_is_unquoted():
    assert composed("output_dir='a,b'").config.output_dir == "a,b"


def test_references_and_hydra_facts_resolve(monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    config = composed(
        "output_dir=${oc.env:WHERE}/${name}",
        "name=a",
        "+extra.m=${hydra:runtime.choices.model}",
        "+extra.all=${trainer}",
    ).config
    assert (config.output_dir, config.extra["m"]) == ("/data/a", "transformer")
    assert config.extra["all"]["batch_size"] == 32


def test_folders_and_packages_on_the_search_path(tmp_path):
    write(tmp_path, "data/mine", "defaults: [/schema/data@_here_: glyphs]\n")
    word = f"hydra.searchpath=[{tmp_path},pkg://json]"
    assert composed(word, "data=mine", "model=cnn").choices["data"] == "mine"
    for absent in ("pkg://no_such_package", "pkg://no_such.package"):
        with pytest.warns(UserWarning, match="is not available"):
            composed(f"hydra.searchpath=[{absent}]")
