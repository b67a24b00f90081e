"""The package works away from its source: sdist → wheel → an environment that never saw the repository."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from setuptools import build_meta

import bigtrain
import bigtrain.configs

ROOT = Path(__file__).parents[1]
FOLDERS = ("bigtrain", "configs")


def files_that_must_ship() -> set[str]:
    """Paths inside the wheel of all our modules and configs (`configs/local/` is the user's own)."""
    modules = {path.relative_to(ROOT) for path in ROOT.glob("bigtrain/**/*.py")}
    configs = {path.relative_to(ROOT) for path in ROOT.glob("configs/**/*.yaml")}
    ours = {path for path in configs if path.parts[1] != "local"}
    return {"bigtrain/py.typed", *(str(path) for path in modules), *(f"bigtrain/{path}" for path in ours)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that both are whole or neither; from a copy, as setuptools reuses `build/`."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "local")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for path in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / path, source)
    with contextlib.chdir(source):
        sdist = build_meta.build_sdist(str(folder))
    with tarfile.open(folder / sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    with contextlib.chdir(unpacked):
        return folder / build_meta.build_wheel(str(folder))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment: the wheel is installed there, all else is seen from the present one."""
    environment = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(environment, symlinks=True)
    bin_folder = environment / "bin"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "--no-deps", "--quiet"]
        + ["--no-index", "--disable-pip-version-check", wheel],
        check=True,
    )
    # Plain paths: the .pth files of the present environment, and so its editable bigtrain, are not read.
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    present = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site_packages / "present.pth").write_text("".join(f"{path}\n" for path in present))
    return bin_folder


def run(program: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([program, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_every_module_and_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert not files_that_must_ship() - held, "missing: does its folder have an __init__.py?"
    beyond = {name for name in held - files_that_must_ship() if not name.endswith("/__init__.py")}
    assert not beyond, "files of no known kind"


def test_the_wheel_holds_the_licence_and_the_version(wheel: Path) -> None:
    folder = f"bigtrain-{bigtrain.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        facts = archive.read(f"{folder}/METADATA").decode().splitlines()
    assert f"Version: {bigtrain.__version__}" in facts
    assert "License-Expression: Apache-2.0" in facts


def test_the_wheel_and_not_the_source_tree_is_what_runs_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    where = "import bigtrain, bigtrain.configs; print(bigtrain.__file__, bigtrain.configs.__file__, sep='\\n')"
    result = run(elsewhere / "python", "-c", where, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        assert Path(line).is_relative_to(elsewhere.parent)


def test_the_wheel_trains_from_an_empty_directory(elsewhere: Path, tmp_path: Path) -> None:
    tiny = "data=synthetic/markov data.train_tokens=20000 data.eval_tokens=5000 trainer.eval_every=null"
    tiny += " model.hidden_size=16 model.num_layers=1 model.num_heads=2 trainer.max_duration=3step"
    result = run(elsewhere / "bigtrain", *tiny.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    (status,) = tmp_path.glob("outputs/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "finished"


def test_the_editable_install_sees_every_config_of_the_source_tree() -> None:
    assert Path(bigtrain.__file__).parent == ROOT / "bigtrain"
    assert Path(bigtrain.configs.__file__).parent == ROOT / "configs"
