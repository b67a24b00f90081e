"""A package of others joins: by plugins= or installed; its model trains, is killed, goes on to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import MARKOV, Shell
from .test_resume_command import final_bytes, kill_after_rows

SOURCE = Path(__file__).parents[1] / "plugin_package"
TINY = [
    *MARKOV,
    "model=bag_of_context",
    "model.hidden_size=8",
    "data.sequence_length=16",
    "trainer.gpus=0",
    "trainer.batch_size=8",
    "trainer.max_duration=40step",
    "trainer.save_every=7step",
    "trainer.log_every=3",
]
NAMED = "plugins=[bag_of_context]"


def shell_with(folder: Path, packages: Path, installed: bool = False) -> Shell:
    """A shell whose PYTHONPATH holds a folder of packages."""
    path = f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    return Shell(folder, os.environ | {"PYTHONPATH": path}, installed)


@pytest.fixture
def installed(tmp_path):
    """A folder that pip has put the package into, entry point and all; from a copy, for setuptools leaves build/."""
    folder = tmp_path / "plugin"
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *words, "--target", folder / "packages", folder / "source"]
    subprocess.run(command, check=True, timeout=120)
    return folder / "packages"


@pytest.fixture
def shell(tmp_path):
    return shell_with(tmp_path, SOURCE)


def package(folder: Path, code: str, entry_point: str = "") -> Path:
    """A package `broken` with this code, and an entry point as pip would have written it."""
    (folder / "broken").mkdir(parents=True)
    (folder / "broken/__init__.py").write_text(code)
    if entry_point:
        facts = folder / "broken_plugin-1.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
        (facts / "entry_points.txt").write_text(f"[bigtrain.plugins]\nbroken = {entry_point}\n")
    return folder


def test_its_model_trains_is_killed_and_goes_on_to_the_same_bytes_and_writes(tmp_path, installed):
    """By plugins= and by its entry point: a run of the one goes on, and is used, with the other."""
    by_name, by_entry_point = shell_with(tmp_path, SOURCE), shell_with(tmp_path, installed)
    shell_with(tmp_path, installed, installed=True).run(*TINY, "name=whole")
    process = by_name.start(NAMED, *TINY, "name=killed")
    assert kill_after_rows(by_name, process, 4, signal.SIGKILL) == -signal.SIGKILL
    runs = {run.parent.name: run for run in by_name.runs()}
    by_entry_point.run(f"resume={runs['killed']}")
    assert final_bytes(runs["killed"], 40) == final_bytes(runs["whole"], 40)
    said = by_name.run("generate", NAMED, f"checkpoint={runs['whole']}", "prompt=a", "max_tokens=5")
    assert said.stdout.startswith("a")
    for words in (["generate", f"checkpoint={runs['whole']}", "prompt=a"], [f"resume={runs['whole']}"]):
        refused = shell_with(tmp_path, tmp_path).run(*words, code=2)  # without it: a sentence, and nothing imported
        assert refused.stderr.startswith("error[PLUGIN-MISSING]")
        assert f"add {NAMED}" in refused.stderr
    typed = {name: (run / "overrides.txt").read_text().splitlines()[0] for name, run in runs.items()}
    assert typed == {"whole": TINY[0], "killed": NAMED}


def test_help_typos_and_completion_cover_its_settings_without_torch(shell):
    page = shell.run(NAMED, "model=bag_of_context", "--help").stdout
    assert "model.longest_memory=32.0" in page
    assert "bag_of_context*" in page
    typo = shell.run(NAMED, *TINY, "model.longest_memry=3", code=2).stderr
    assert "did you mean model.longest_memory=3 ?" in typo
    shell.environment["COMP_LINE"] = f"bigtrain {NAMED} model=bag_of_context model.lo"
    assert shell.run("-sc", "query=bash").stdout == "model.longest_memory=\n"
    code = "import sys; from bigtrain.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, NAMED, "model=bag_of_context", "--help"]
    subprocess.run(command, env=shell.environment, check=True, capture_output=True, timeout=60)


def test_a_model_without_its_plugin_is_no_choice(shell):
    assert "model=bag_of_context is not a choice" in shell.run("model=bag_of_context", code=2).stderr
    assert "plugins=[my_package]" in shell.run("plugin=[bag_of_context]", code=2).stderr


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plugins=[no_such_package]", "the plug-in no_such_package is not installed"),
        ("plugins=[a-b]", "plugins=[a-b] names no package"),
        ("plugins=[]", "plugins=[] names no package"),
        ("plugins=[../x]", "names no package"),
    ],
)
def test_names_that_are_none(shell, word, expected):
    assert expected in shell.run(word, "--help", code=2).stderr


def test_plugins_in_a_file_are_refused_and_import_nothing(tmp_path):
    packages = package(tmp_path / "packages", "open('imported', 'w')")
    (tmp_path / "configs/experiment").mkdir(parents=True)
    (tmp_path / "configs/experiment/x.yaml").write_text("# @package _global_\nplugins: [broken]\n")
    refused = shell_with(tmp_path, packages).run("-cd", "configs", "experiment=x", "--cfg", "job", code=2)
    assert "plug-ins are named on the command line" in refused.stderr
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("installed_one", [False, True])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 / 0", "can't be loaded: ZeroDivisionError"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        (
            "from bigtrain.registry import MODELS\nMODELS.register('cnn', int, factory='a:b')",
            "model=cnn is registered already, by bigtrain.models.vision.cnn:CNN",
        ),
    ],
)
def test_one_that_fails_is_a_sentence_that_names_it(tmp_path, code, expected, installed_one):
    shell = shell_with(tmp_path, package(tmp_path / "packages", code, "broken" if installed_one else ""))
    refused = shell.run(*([] if installed_one else ["plugins=[broken]"]), "--help", code=2)
    assert expected in refused.stderr
    assert ("pip uninstall broken-plugin" in refused.stderr or "broken-plugin" in refused.stderr) == installed_one


def test_yaml_of_the_same_name_as_ours_is_refused(tmp_path):
    packages = package(tmp_path / "packages", "")
    (packages / "broken/configs/model").mkdir(parents=True)
    (packages / "broken/configs/model/cnn.yaml").write_text("{}\n")
    refused = shell_with(tmp_path, packages).run("plugins=[broken]", "model=cnn", "--cfg", "job", code=2)
    assert "would be ignored" in refused.stderr
