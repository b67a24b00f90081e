"""--help, --cfg, --info and completion: complete, quick, and hiding what is ours alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigtrain.cli import main
from bigtrain.config.completion import complete
from bigtrain.config.library import Library, Request
from bigtrain.config.schema import leaves
from bigtrain.config.verbs import VERBS
from bigtrain.registry import REGISTRIES
from tests.config.composing import write

ROOT = Path(__file__).parents[2]


def output(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_help_shows_every_setting_with_its_value_and_meaning(capsys):
    text = output(capsys, "--help")
    for key, field, _ in leaves(VERBS["train"].settings):
        assert f"{key}=" in text
        assert field.metadata["help"].split()[0] in text
    for group in ("model=", "data=", "optimizer="):
        assert group in text
    assert "synthetic/markov" in text
    assert "transformer*" in text
    assert "schema" not in text.replace("optimizer schedule", "")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_help_of_each_part_shows_its_settings(capsys, kind):
    choices = {part: choice for choice, part in Library(Request("train"), []).parts(kind).items()}
    for entry in REGISTRIES[kind]:
        choice = choices[entry.name]
        text = output(capsys, f"{kind}={choice}", "--help")
        for key, _, _ in leaves(entry.config_class):
            assert f"{kind}.{key}=" in text


def test_help_of_other_verbs(capsys):
    assert "split=auto" in output(capsys, "eval", "--help")
    text = output(capsys, "generate", "-h")
    assert "temperature=0.8" in text
    assert "model." not in text


def test_cfg_prints_what_would_run(capsys):
    assert output(capsys, "--cfg", "job", "-p", "trainer.compile", "trainer.compile=true") == "true\n"
    assert "kernel_size: 3" in output(capsys, "model=cnn", "--cfg", "job", "-p", "model")
    assert output(capsys, "--cfg", "job", "--resolve", "-p", "seed", "seed=${trainer.log_every}") == "10\n"
    assert "${trainer.log_every}" in output(capsys, "--cfg", "job", "seed=${trainer.log_every}")
    assert "run:" in output(capsys, "-c", "hydra", "+extra.note=x", "name=a,b")
    assert "split: auto" in output(capsys, "eval", "--cfg", "job")


def test_info_shows_how_the_config_is_put_together(capsys, tmp_path):
    write(tmp_path, "experiment/mine", "# @package _global_\ntrainer: {batch_size: 3}\n")
    text = output(capsys, "--info", "defaults", "model=cnn", "-cd", str(tmp_path), "experiment=mine")
    assert "data/glyphs" in text
    assert "experiment/mine" in text
    assert str(tmp_path) in output(capsys, "-cd", str(tmp_path), "--info", "searchpath")
    for topic in ("defaults-tree", "config", "plugins", "all"):
        assert output(capsys, "--info", topic)
    assert "model/cnn" in output(capsys, "--info", "model=cnn")


def test_hydra_help_and_version(capsys):
    assert "Hydra" in output(capsys, "--hydra-help")
    assert output(capsys, "--version").startswith("bigtrain ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys, shell):
    assert "complet" in output(capsys, "-sc", f"install={shell}")
    assert output(capsys, "-sc", f"uninstall={shell}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bigtrain model=", {f"model={path.stem}" for path in (ROOT / "configs/model").glob("*.yaml")}),
        ("bigtrain model=c", {"model=cnn"}),
        ("bigtrain data=synthetic/m", {"data=synthetic/markov"}),
        ("bigtrain +data=synthetic/m", {"+data=synthetic/markov"}),
        ("bigtrain sch", {"scheduler.", "scheduler="}),
        ("bigtrain gen", {"generate"}),
        ("bigtrain trainer.g", {"trainer.gpus="}),
        ("bigtrain trainer.precision=f", {f"trainer.precision=fp{bits}" for bits in (8, 16, 32)}),
        ("bigtrain tracking.tensorboard=", {"tracking.tensorboard=true", "tracking.tensorboard=false"}),
        ("bigtrain model=cnn model.k", {"model.kernel_size="}),
        ("bigtrain eval sp", {"split="}),
        ("bigtrain eval mod", set()),
        ("bigtrain train model=g", {"model=gpt2"}),
        ("bigtrain generate prom", {"prompt="}),
        ("bigtrain nonsense=1 model=c", {"model=cnn"}),
        ("bigtrain schema/", set()),
        ("bigtrain hydra", set()),
        ("bigtrain name='a b", set()),
        ("bigtrain model.norm.x=", set()),
        ("bigtrain nope.x=", set()),
    ],
)
def test_completion(line, expected):
    assert set(complete(line)) == expected


def test_completion_offers_verbs_choices_and_settings_first():
    offered = complete("bigtrain ")
    assert {"train", "eval", "generate", "model=", "trainer.", "seed="} <= set(offered)
    assert not any(word.startswith(("schema", "hydra")) for word in offered)


def test_completion_reads_the_line_up_to_the_cursor(capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "bigtrain model=c seed=3")
    monkeypatch.setenv("COMP_POINT", "16")
    assert output(capsys, "-sc", "query=bash") == "model=cnn\n"
