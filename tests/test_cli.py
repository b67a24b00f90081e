"""The command: verbs, flags, exit codes; no torch and nothing written before a command starts."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from bigtrain.cli import _command, main
from bigtrain.errors import DataError
from tests.config.test_strict import TYPOS

COMMAND = Path(sys.executable).parent / "bigtrain"

QUIET = [
    ["--help"],
    ["model=cnn", "--help"],
    ["eval", "--help"],
    ["--cfg", "job"],
    ["--cfg", "all"],
    ["--info"],
    ["--hydra-help"],
    ["--version"],
    ["-m", "seed=1,2", "--cfg", "job"],
    ["-sc", "install=bash"],
    ["-sc", "query=bash"],
    ["resume=latest"],
    ["eval"],
    ["eval", "model=cnn"],
    ["verify"],
    ["trian"],
    ["--cfgg", "job"],
    ["-m", "seed=1,2", "modle=cnn"],
    ["-m", "seed=1,1"],
    ["-m", "hydra/launcher=nope"],
    ["plugins=[no_such_package]"],
    ["-cd", "no_such_folder"],
    ["model=cnn", "data=python_docs"],
    *([word] for word in TYPOS),
]

HARNESS = """
import contextlib, io, json, os, sys
from bigtrain.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        codes.append(main(words))
    assert "torch" not in sys.modules, words
    assert "Traceback" not in errors.getvalue(), (words, errors.getvalue())
    assert codes[-1] != 70, (words, errors.getvalue())
print(json.dumps({"codes": codes, "left": os.listdir(".")}))
"""


@pytest.fixture
def command(monkeypatch):
    """Puts a stand-in in the place of commands/train.py, and returns what it was called with."""
    calls = []

    def install(action=lambda composed: 0):
        def run(composed):
            calls.append(composed)
            return action(composed)

        monkeypatch.setitem(sys.modules, "bigtrain.commands.train", types.SimpleNamespace(run=run))
        return calls

    return install


def error_of(capsys, *words: str, code: int = 2) -> str:
    assert main(list(words)) == code
    return capsys.readouterr().err


def test_no_verb_means_train_and_the_command_gets_what_was_composed(command):
    calls = command(lambda composed: 75)
    assert main(["model=cnn", "seed=3"]) == 75
    assert main(["train", "seed=4"]) == 75
    assert [(call.verb, call.config.seed) for call in calls] == [("train", 3), ("train", 4)]
    assert calls[0].overrides == ("model=cnn", "seed=3")


def test_what_a_command_imports_is_out_of_the_collectors_sight():
    """Python collects once more when it exits."""
    gc.unfreeze()
    try:
        _command("check_data")
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_words_and_flags_may_mix(command, tmp_path):
    calls = command()
    assert main(["seed=1", "-cd", str(tmp_path), "trainer.log_every=3"]) == 0
    assert (calls[0].config.seed, calls[0].config.trainer.log_every) == (1, 3)


def test_own_root(command, tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults:\n  - train\n  - override model: cnn\n  - _self_\nseed: 7\n")
    calls = command()
    (tmp_path / "mine.yaml").write_text("defaults:\n  - train\n  - _self_\nseed: 7\n")
    assert main(["-cd", str(tmp_path), "-cn", "mine", "model=cnn"]) == 0
    assert (calls[0].config.seed, calls[0].choices["data"]) == (7, "glyphs")


def test_root_that_is_none(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    assert "begin its defaults list with: - train" in error_of(capsys, "-cd", str(tmp_path), "-cn", "mine")
    assert "there is no nope.yaml" in error_of(capsys, "-cn", "nope")


def test_wrong_verbs_and_flags_are_told_apart(capsys):
    assert "'verify' is not a verb" in error_of(capsys, "verify")
    assert "did you mean bigtrain train ?" in error_of(capsys, "trian")
    assert "neither a verb nor key=value" in error_of(capsys, "seed=1", "model")
    assert "The verb comes first" in error_of(capsys, "seed=1", "eval")
    assert "did you mean --cfg ?" in error_of(capsys, "--cgf", "job")
    assert "-m starts trainings" in error_of(capsys, "eval", "-m", "checkpoint=a,b")
    assert "-cp is not supported" in error_of(capsys, "-cp", "x")
    assert "invalid choice" in error_of(capsys, "--cfg", "jb")
    assert "--resolve goes with --cfg" in error_of(capsys, "--resolve")
    assert "-sc is told what to do" in error_of(capsys, "-sc", "install=tcsh")
    assert "did you mean model ?" in error_of(capsys, "--cfg", "job", "-p", "modle")


@pytest.mark.parametrize(
    ("words", "expected"),
    {
        "--lr 0.1": "settings have no dashes; did you mean optimizer.learning_rate=0.1 ?",
        "-lr 0.1": "did you mean optimizer.learning_rate=0.1 ?",
        "--epochs 3 model=cnn": "did you mean trainer.max_duration=3epoch ?",
        "model=cnn --batch-size=8": "did you mean trainer.batch_size=8 ?",
        "--trainer.gpus=1": "settings have no dashes; did you mean trainer.gpus=1 ?",
        "--fp16": "did you mean trainer.precision=fp16 ?",
        "--num_workers 4": "leave it out",
        "--config x.yaml": "-cd FOLDER experiment=NAME",
        "--hlep": "did you mean --help ?",
        "--foo 3": "--help lists the flags and the settings",
        "help": "bigtrain --help",
        "resume outputs/a/b": "bigtrain resume=outputs/a/b",
        "finetune": "bigtrain init_from=<run directory>",
        "test": "bigtrain eval checkpoint=<run directory> split=test",
        "validate run": "bigtrain eval checkpoint=run split=val",
        "sweep seed=1,2": "bigtrain -m",
        "fit": "bigtrain train",
        "predict": "bigtrain generate checkpoint=<run directory>",
        "wibble": "the verbs are train, eval, generate, export, plan, check-data, compare. Settings are key=value",
    }.items(),
)
def test_flags_and_verbs_of_other_programs_are_answered(capsys, words, expected):
    text = error_of(capsys, *words.split())
    assert expected in text
    assert "did you mean -" not in text.replace("did you mean --help", "")


def test_every_dashed_setting_is_answered(capsys):
    assert error_of(capsys, "--lr=0.1", "--epochs", "3", "--seed", "1").count("error[CONFIG-FLAG]") == 3


def test_the_module_of_the_command_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "trainer.gpu=1"], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, "did you mean trainer.gpus=1 ?" in result.stderr) == (2, True)


def test_exit_codes(command, capsys):
    def fail(error):
        def action(composed):
            raise error

        return action

    command(fail(DataError.of("DATA-X", "no data", cause="c", fix="f")))
    assert error_of(capsys, code=3) == "error[DATA-X]: no data\n  cause: c\n  fix:   f\n"
    command(fail(KeyboardInterrupt()))
    assert error_of(capsys, code=130) == ""
    command(fail(RuntimeError("boom")))
    text = error_of(capsys, code=70)
    assert "a bug of bigtrain's" in text
    assert "RuntimeError: boom" in text
    assert "Traceback" not in text
    assert "Traceback" in error_of(capsys, "--debug", code=70)


def test_hydra_is_left_as_it_was_found(command):
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    command()
    assert main([]) == 0
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


def test_no_torch_and_nothing_written_by_displays_and_refusals(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", HARNESS, json.dumps(QUIET)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["left"] == []
    codes = dict(zip(map(tuple, QUIET), report["codes"], strict=True))
    assert all(codes[(word,)] == 2 for word in TYPOS)
    assert all(codes[tuple(words)] == 0 for words in QUIET[:11])
    assert codes[("resume=latest",)] == 4


@pytest.mark.skipif(not COMMAND.exists(), reason="the package is not installed")
def test_installed_command(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*words, **environment):
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [COMMAND, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=60,
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return result, ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime

    # CPU seconds of a calm moment, because the machine may be busy with other tests, which makes a second of CPU worth
    # less; with compiled modules, as every second start has.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    assert any(run("--help", **compiled)[1] < 0.5 for _ in range(30))
    result, _ = run("trainer.gpu=1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error[CONFIG-KEY]: trainer.gpu is not a setting of bigtrain train\n"
        '  cause: command line, "trainer.gpu=1"\n'
        "  fix:   did you mean trainer.gpus=1 ?\n"
    )
    result, _ = run("-sc", "query=bash", COMP_LINE="bigtrain eval ch", COMP_POINT="16")
    assert (result.returncode, result.stdout) == (0, "checkpoint=\n")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not COMMAND.exists(), reason="the package is not installed")
def test_a_reader_that_goes_away_causes_no_traceback():
    process = subprocess.Popen([COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=30)
