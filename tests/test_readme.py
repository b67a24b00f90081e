"""Every command of the README runs, shortened where it would train for long; and its outputs are of this version."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from bigtrain.errors import ExitCode
from tests.commands.conftest import COMMAND, Shell

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

SHORTER = ["trainer.max_duration=4step", "trainer.eval_every=null", "trainer.batch_size=4", "trainer.gpus=0"]
SMALL_TEXT = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=1", "tracking.sample_tokens=5"]
SMALL_IMAGES = ["model.widths=[2]"]
# What a word needs to run in a test: no GPU, no Debian package, nothing that trains for a minute.
TESTED_ELSEWHERE = ("data=fashion_mnist", "debug=", "trainer.processes=", "experiment=topics", "experiment=sst2_bert")
TESTED_ELSEWHERE += ("model=bert", "model=lstm", "model=seq2seq", "model=resnet", "data=image_folder")
TESTED_ELSEWHERE += ("data=text_classification", "data=synthetic/disks", "pipeline=", "compare")
ADDED = {
    "data=text_corpus": SMALL_TEXT,
    "data=synthetic/markov": [*SMALL_TEXT, "data.train_tokens=5000", "data.eval_tokens=500"],
    "data=synthetic/copy": [*SMALL_TEXT, "data.train_samples=50", "data.eval_samples=10"],
    "experiment=shakespeare": SMALL_TEXT,
    "experiment=shakespeare_fast": SMALL_TEXT,
    "optimizer=muon": SMALL_TEXT,
    "trainer.early_stopping.patience=3": [*SMALL_TEXT, "trainer.eval_every=1step"],
    "model=cnn": SMALL_IMAGES,
}


def commands():
    """Every line of the README's shell blocks, without comments."""
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.S):
        for line in block.splitlines():
            words = line.split("#")[0].strip()
            if words:
                yield words


BIGTRAIN = [line for line in commands() if line.startswith("bigtrain")]
OTHER = [line for line in commands() if not line.startswith("bigtrain")]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder that holds what the README's commands name, and one finished run."""
    shell = Shell(tmp_path_factory.mktemp("readme"))
    (shell.folder / "my_texts").mkdir()
    text = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 90
    (shell.folder / "my_texts/one.txt").write_text(text)
    (shell.folder / "my_texts/two.txt").write_text(text.upper())
    (shell.folder / "my_texts/three.txt").write_text(text.lower())
    (shell.folder / "tinyshakespeare.txt").write_text(text)
    (shell.folder / "my_configs/experiment").mkdir(parents=True)
    (mine,) = re.findall(r"```yaml\n# my_configs/experiment/mine.yaml\n(.*?)```", README, flags=re.S)
    (shell.folder / "my_configs/experiment/mine.yaml").write_text(mine)
    shell.run("data=text_corpus", "data.path=my_texts/", "name=first", *SMALL_TEXT, *SHORTER)
    (tokenizer,) = shell.folder.glob("outputs/first/*/checkpoints/step-00000004/tokenizer.json")
    (shell.folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return shell


def runnable(line, shell):
    """The words to run for a README line, with what makes it short."""
    words = [word for word in shlex.split(line)[1:] if word != "trainer.gpus=1"]
    if "-m" in words or "export" in words or any(word.startswith(TESTED_ELSEWHERE) for word in words):
        return [*words, "--cfg", "job"]  # composed as they stand
    run = next(run for run in shell.runs() if run.parent.name == "first")
    words = [word.replace("outputs/<name>/<run>", str(run)) for word in words]
    asks = any(word.startswith("-") and word != "-cd" for word in words)
    if asks or words[:1] in (["eval"], ["generate"]) or any(word.startswith("resume=") for word in words):
        return [word.replace("=latest", f"={run}") for word in words]
    if any(word.startswith("init_from=") for word in words):
        return [*words, *SMALL_TEXT, *SHORTER]
    if "model=llama" in words:
        return [*words, *SMALL_TEXT, "model.num_kv_heads=1", *SHORTER]
    if "model=gpt2" in words:
        return [*words, *SMALL_TEXT, *SHORTER]
    added = [extra for word in words for extra in ADDED.get(word, [])]
    if not words:
        added = SMALL_TEXT
    own_length = any(word.startswith("trainer.max_duration=") for word in words)
    if own_length:
        return [*words, "--cfg", "job"]
    if "model=cnn" in words:
        added = [*added, "data.train_images=60", "data.test_images=20"]
    if any(word.startswith("experiment=mine") for word in words):
        added = [*SMALL_IMAGES, "data.train_images=60", "data.test_images=20"]
    return [*words, *SHORTER, *added]


@pytest.mark.parametrize("line", BIGTRAIN)
def test_every_bigtrain_command_runs(shell, line):
    if "trainer.gpu=1" in line:
        done = shell.run(*shlex.split(line)[1:], code=2)
        assert done.stderr.strip() in README
    else:
        shell.run(*runnable(line, shell), stdin="To be\n")


def test_the_other_commands_are_known_and_exist():
    """Those that set up or serve are run by tests of their own (test_scripts, test_seeing_a_run)."""
    for line in OTHER:
        assert re.match(r"git clone|\./scripts/(run|test)|tensorboard --logdir|eval \"\$\(bigtrain -sc", line), line
        for script in re.findall(r"\./(scripts/\w+)", line):
            assert (ROOT / script).is_file()


def test_completion_is_a_script_that_bash_takes():
    script = subprocess.run([str(COMMAND), "-sc", "install=bash"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_exit_codes_are_the_ones_in_use():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.M)}
    assert table == {int(code) for code in ExitCode}


def test_outputs_shown_have_something_in_them():
    shown = re.findall(r"<!-- output: (.*?) -->\n```text\n(.*?)```", README, flags=re.S)
    assert len(shown) >= 4
    for command, output in shown:
        assert len(output.strip()) > 20, command
