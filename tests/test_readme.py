"""README.md and the pages of docs/ that are looked up: every command runs, shortened where it would train for long.

A comment `<!-- output: COMMAND -->` stands above what a command printed. The pages that are read from top to bottom
(the tutorial, the guides) have tests of their own: test_docs.py.
"""

import re
import shlex
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest

from bigtrain.errors import ExitCode
from tests.commands.conftest import COMMAND, Shell
from tests.test_docs import PAGES, ROOT, SMALL, blocks

README = (ROOT / "README.md").read_text()
TEXTS = {"README": README, "CONTRIBUTING": (ROOT / "CONTRIBUTING.md").read_text()}
TEXTS |= {path.stem: path.read_text() for path in PAGES if path.stem not in SMALL}

SHORTER = ["trainer.max_duration=4step", "trainer.eval_every=null", "trainer.batch_size=4", "trainer.gpus=0"]
SHORTER += ["trainer.limit_samples=8"]
SMALL_TEXT = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=1", "tracking.sample_tokens=5"]
SMALL_IMAGES = ["model.widths=[2]"]
# What a word needs to run in a test: no GPU, no Debian package, nothing that trains for a minute.
TESTED_ELSEWHERE = ("data=fashion_mnist", "debug=", "trainer.processes=", "experiment=topics", "experiment=sst2_bert")
TESTED_ELSEWHERE += ("trainer.tensor_parallel=",)
TESTED_ELSEWHERE += ("model=bert", "model=lstm", "model=seq2seq", "model=resnet", "data=image_folder")
TESTED_ELSEWHERE += ("data.path=s3:", "data=text_classification", "data=synthetic/disks")
TESTED_ELSEWHERE += ("pipeline=", "compare", "resume=auto")
ADDED = {
    "data=text_corpus": SMALL_TEXT,
    "data=synthetic/markov": [*SMALL_TEXT, "data.train_tokens=5000", "data.eval_tokens=500"],
    "data=synthetic/copy": [*SMALL_TEXT, "data.train_samples=50", "data.eval_samples=10"],
    "experiment=gpt2_124m": [
        *SMALL_TEXT,
        "data.vocab_size=300",
        "data.sequence_length=16",
        "data.split=0.9,0.05,0.05",
        "trainer.micro_batch_size=2",
    ],
    "experiment=shakespeare": SMALL_TEXT,
    "experiment=shakespeare_fast": SMALL_TEXT,
    "optimizer=muon": SMALL_TEXT,
    "data=mixture": SMALL_TEXT,
    "trainer.early_stopping.patience=3": [*SMALL_TEXT, "trainer.eval_every=1step"],
    "model=cnn": SMALL_IMAGES,
}


def commands():
    """Every line of the shell blocks once, without comments, in the order of the pages."""
    lines = (line for text in TEXTS.values() for block in blocks(text, "sh") for line in block.text.splitlines())
    return list(dict.fromkeys(words for line in lines if (words := line.split("#")[0].strip())))


BIGTRAIN = [line for line in commands() if line.startswith("bigtrain")]
OTHER = [line for line in commands() if not line.startswith("bigtrain")]
MINE = "# my_configs/experiment/mine.yaml\n"


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder that holds what the commands name, and one finished run."""
    shell = Shell(tmp_path_factory.mktemp("readme"))
    (shell.folder / "my_texts").mkdir()
    text = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 90
    (shell.folder / "my_texts/one.txt").write_text(text)
    (shell.folder / "my_texts/two.txt").write_text(text.upper())
    (shell.folder / "my_texts/three.txt").write_text(text.lower())
    (shell.folder / "my_code").mkdir()
    (shell.folder / "my_code/one.txt").write_text(text.title())
    (shell.folder / "tinyshakespeare.txt").write_text(text)
    (shell.folder / "my_configs/experiment").mkdir(parents=True)
    (mine,) = (block.text for block in blocks(TEXTS["settings"], "yaml") if block.text.startswith(MINE))
    (shell.folder / "my_configs/experiment/mine.yaml").write_text(mine.removeprefix(MINE))
    shell.run("data=text_corpus", "data.path=my_texts/", "name=first", *SMALL_TEXT, *SHORTER)
    (tokenizer,) = shell.folder.glob("outputs/first/*/checkpoints/step-00000004/tokenizer.json")
    (shell.folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return shell


def runnable(line, shell):
    """The words to run for a line, with what makes it short."""
    words = [word for word in shlex.split(line)[1:] if word != "trainer.gpus=1"]
    if "-m" in words or "export" in words or any(word.startswith(TESTED_ELSEWHERE) for word in words):
        return [*words, "--cfg", "job"]  # composed as they stand
    run = next(run for run in shell.runs() if run.parent.name == "first")
    words = [word.replace("outputs/<name>/<run>", str(run)) for word in words]
    asks = any(word.startswith("-") and word != "-cd" for word in words)
    if asks or words[:1] in (["eval"], ["generate"]) or any(word.startswith("resume=") for word in words):
        return [word.replace("=latest", f"={run}").replace("3000step", "6step") for word in words]
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


@pytest.mark.parametrize("line", BIGTRAIN, ids=str)
def test_every_bigtrain_command_runs(shell, line):
    if "trainer.gpu=1" in line:
        done = shell.run(*shlex.split(line)[1:], code=2)
        assert done.stderr.strip() in README
    else:
        shell.run(*runnable(line, shell), stdin="To be\n")


def test_the_other_commands_are_known_and_exist():
    """Those that set up or serve are run by tests of their own (test_scripts, test_seeing_a_run)."""
    for line in OTHER:
        assert re.match(
            r"git clone|pip install 'bigtrain\["
            r"|\./scripts/(run|test)|source \.venv/bin/activate|tensorboard --logdir|eval \"\$\(bigtrain -sc",
            line,
        ), line
        for script in re.findall(r"\./(scripts/\w+)", line):
            assert (ROOT / script).is_file()


def test_completion_is_a_script_that_bash_takes():
    script = subprocess.run([str(COMMAND), "-sc", "install=bash"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_exit_codes_are_the_ones_in_use():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXTS["runs"], flags=re.M)}
    assert table == {int(code) for code in ExitCode}


def test_outputs_shown_have_something_in_them():
    shown = [block for text in TEXTS.values() for block in blocks(text, "text") if block.mark.startswith("output: ")]
    assert len(shown) >= 5
    for block in shown:
        assert len(block.text.strip()) > 20, block.mark


def test_the_picture_can_be_made_again_and_loads_nothing(shell, monkeypatch):
    loader = SourceFileLoader("picture", str(ROOT / "scripts/picture"))
    picture = module_from_spec(spec_from_loader("picture", loader))
    loader.exec_module(picture)
    run = next(run for run in shell.runs() if run.parent.name == "first")
    monkeypatch.setattr("sys.argv", ["picture", str(run), str(shell.folder / "run.svg"), "--step", "4"])
    picture.main()
    for drawn in (shell.folder / "run.svg", ROOT / "docs/run.svg"):
        text = drawn.read_text()
        assert "parameters" in text and "train&#160;loss" in text
        assert not re.search(r"url\((?!#)|href|@import", text)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
